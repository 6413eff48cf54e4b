"""Autoregressive language modelling of bytes, symbols or words, measured in bits per byte or perplexity."""

import copy
import functools
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from effjax.accounting.mult_adds import mult_adds
from effjax.data import load_corpus
from effjax.data.corpus import SEPARATED
from effjax.data.placement import BATCH, global_rows, reader_share
from effjax.data.scoring import scoring_batches, scoring_streams
from effjax.data.streams import StreamReader
from effjax.data.vocabularies import get_vocabulary
from effjax.data.windows import WindowReader
from effjax.errors import UserError
from effjax.models.build import make_decoder
from effjax.models.generation import check_generation, generate
from effjax.models.initial import redraw
from effjax.tasks.task import Task
from effjax.training.config import set_fields

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class LanguageModelling(Task):
    """Predicts each token of a corpus from those before it: loss is the mean of `-log p(x_t | x_<t)` in nats.

    The corpus is opened when first read, so that a plan of the model needs no data.

    Args:
      config: a whole configuration; this task reads `data`, `model`, `eval`, `sample`, `batch_size`, `dtype`, `seed`.

    Raises:
      UserError: a setting that does not exist or does not fit.
    """

    _origin = None
    keeps_apart = True  # documents, where the corpus has some

    def __init__(self, config):
        self.config = config
        if config.dtype not in DTYPES:
            raise UserError(f"config.dtype={config.dtype!r}; one of {', '.join(DTYPES)} is allowed")
        for name, reader in (("data", config.data.reader), ("eval", config.eval.reader)):
            if reader not in ("windows", "streams"):
                raise UserError(f"config.{name}.reader={reader!r}; 'windows' or 'streams' is allowed")
        self.vocabulary = get_vocabulary(config.data.vocabulary)
        self.model = self.make_model(config.model)
        self.check_lengths()
        self.scorer, self._scorers = self._with_eval_model(), {}
        scores = self.report({"nats": 0.0}, kept=1.0)
        if config.eval.metric not in scores:
            raise UserError(
                f"config.eval.metric={config.eval.metric!r}; with the vocabulary {self.vocabulary.name!r} one of "
                f"{', '.join(scores)} is allowed"
            )
        if config.sample.length:  # found out now rather than after the last step
            self.check_sample(config.sample)

    def make_model(self, section):
        """The model that a configuration's `model` section describes."""
        return make_decoder(section, vocab_size=self.vocabulary.size, dtype=DTYPES[self.config.dtype])

    def check_sample(self, sample):
        """Raises UserError where no text could be generated with the settings of `config.sample`."""
        tokens = self.vocabulary.count(os.fsencode(sample.prompt))
        check_generation(self.model, tokens, sample.length, sample.temperature, sample.top_k)

    def check_lengths(self):
        """Raises UserError where sequences do not fit the model's positions, or streams its states."""
        config, longest = self.config, self.model.max_length
        if longest is not None and max(config.data.length, config.eval.context) > longest:
            raise UserError(
                f"config.data.length={config.data.length} and config.eval.context={config.eval.context} must not "
                f"exceed the {longest} positions of config.model.positions={config.model.positions!r}"
            )
        readers = {"data": config.data.reader, "eval": config.eval.reader}
        streamed = next((name for name, reader in readers.items() if reader == "streams"), None)
        if streamed and not (self.model.streams_forever and longest is None):
            raise UserError(
                f"config.{streamed}.reader='streams' carries state over the whole corpus: every mixer of "
                f"config.model.pattern needs a state of bounded size (pattern={tuple(config.model.pattern)}) and "
                f"config.model.positions no greatest length (positions={config.model.positions!r})"
            )
        if config.data.reader == "streams" and not self.model.outlives_updates:
            raise UserError(
                "config.data.reader='streams' carries sums of random features from step to step, which a new draw "
                "makes meaningless: 0 is allowed for redraw_interval "
                f"(config.model.performer.redraw_interval={config.model.performer.redraw_interval}), or 'windows' here"
            )

    def at_stage(self, config):
        task = super().at_stage(config)
        if task is not self:
            task._origin = self
        return task

    @functools.cached_property
    def corpus(self):
        if self._origin is not None:  # the stages of a run read one corpus
            return self._origin.corpus
        data = self.config.data
        return load_corpus(data.name, path=data.path or None, vocabulary=data.vocabulary)

    @property
    def separated(self) -> bool:
        """Whether the text is of documents that do not see each other."""
        return self.keeps_apart and self.config.data.name in SEPARATED

    def documents(self, split: str) -> np.ndarray | None:
        """Where the documents of a split begin, if they are to be kept apart."""
        return self.corpus.documents[split] if self.separated else None

    def init(self, key: jax.Array):
        """Parameters, a nested dict of float32 arrays."""
        params = self.model.init(key, jnp.zeros((1, 1), jnp.int32))["params"]
        return redraw(params, tuple(self.config.model.init), jax.random.fold_in(key, 1))

    adapted = ()  # changes of the attributes of each block's mixer

    def adapt(self, params, *, frozen: bool = False):
        """The task whose mixers compute no more, and if `frozen` keep no more, than these parameters ask for."""
        changes = self.model.adapt(params, frozen=frozen)
        before = self.adapted or [{}] * len(changes)
        return self.readapted([old | new for old, new in zip(before, changes)]) if any(changes) else self

    def readapted(self, adapted):
        if not adapted or adapted == self.adapted:
            return self
        task = self._with(self.model.adapted(adapted))
        task.adapted = adapted
        return task

    def _with(self, model):
        """The task with another model of the same parameters."""
        task = copy.copy(self)
        task.__dict__.pop("score", None)  # compiled for the model that it had
        task.model = model
        return task

    def fits(self, params) -> jax.Array:
        return self.model.fits(params)

    def after_update(self, params, *, step: jax.Array, key: jax.Array):
        """Parameters after every layer's own rule, which follows an update of the optimizer."""
        return self.model.after_update(params, step=step, key=key)

    def initial_carry(self, batch_size: int):
        """What a training step hands to the next one: the model's state for contiguous streams, else nothing."""
        if self.config.data.reader == "windows":
            return ()
        return self.model.initial_state(batch_size, self.model.dtype, max_length=self.config.data.length)

    def train_reader(self, process_index: int, process_count: int):
        """The reader of this process's share of every global batch."""
        config = self.config
        arguments = dict(
            length=config.data.length,
            batch_size=config.batch_size,
            seed=config.seed,
            process_index=process_index,
            process_count=process_count,
            documents=self.documents("train"),
        )
        if config.data.reader == "windows":
            stride = config.data.stride or config.data.length
            return WindowReader(self.corpus.splits["train"], stride=stride, **arguments)
        return StreamReader(self.corpus.splits["train"], **arguments)

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a global batch."""
        shape = (self.config.batch_size, self.config.data.length)
        batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name in ("inputs", "targets")}
        if self.separated:
            batch["segment_ids"] = jax.ShapeDtypeStruct(shape, jnp.int32)
            batch["weights"] = jax.ShapeDtypeStruct(shape, jnp.float32)
        if self.config.data.reader == "streams":
            batch["reset"] = jax.ShapeDtypeStruct(shape[:1], jnp.bool_)
        return batch

    def loss(self, params, batch, carry=(), *, key=None, deterministic: bool = True):
        """Mean loss of a batch.

        Args:
          params: parameters.
          batch: `inputs` and `targets`, `[B, T]`; optionally `weights`, `padding_mask`, `segment_ids` `[B, T]`,
            `reset` `[B]`.
          carry: see `initial_carry`.
          key: PRNG key of dropout and hashing.
          deterministic: no dropout, constant hashing.

        Returns:
          `(loss, (metrics, carry))`: nats per target, in training with the layers' penalties; sums and weights under
          `{"nats": (sum, weight)}`, in training the mixers' metrics too; the carry for the next step, through which no
          gradient flows.
        """
        state = carry if jax.tree.leaves(carry) else None
        if "reset" in batch:
            state = self.restart(carry, batch["reset"])
        (nats, state), sown = self.model.apply(
            {"params": params},
            batch["inputs"],
            batch["targets"],
            state,
            padding_mask=batch.get("padding_mask"),
            segment_ids=batch.get("segment_ids"),
            deterministic=deterministic,
            rngs=None if key is None else {"dropout": key},
            mutable=["penalties"],
            method="nats",
        )
        weights = batch.get("weights")
        weights = jnp.ones_like(nats) if weights is None else weights
        total, count = jnp.sum(jnp.where(weights > 0, nats, 0.0) * weights), jnp.sum(weights)
        carry = () if state is None else jax.lax.stop_gradient(state)
        loss = total / jnp.maximum(count, 1.0)
        metrics = {"nats": (total, count)}
        if not deterministic:
            loss += self.model.penalty(params) + sum(jax.tree.leaves(sown))
            metrics |= {name: (value, 1.0) for name, value in self.model.metrics(params).items()}
        return loss, (metrics, carry)

    def restart(self, carry, reset):
        """The carry, or the initial one where the streams begin again (all rows of a batch do so together)."""
        fresh = self.initial_carry(reset.shape[0])
        return jax.tree.map(lambda new, old: jnp.where(jnp.all(reset), new, old), fresh, carry)

    def report(self, metrics: dict[str, float], split: str = "train", *, kept: float | None = None) -> dict[str, float]:
        """What is logged of mean metrics: the loss, bits per byte, and the perplexity of words.

        Where the vocabulary drops bytes, or holds words, the score is bits per symbol, beside bits per original byte,
        since the two streams are not comparable symbol by symbol.

        Args:
          metrics: `{"nats": mean}`, and what else is to be logged as it is.
          split: where they were measured.
          kept: symbols per original byte; None: those of the split.
        """
        nats, others = metrics["nats"], {name: value for name, value in metrics.items() if name != "nats"}
        bits = nats / math.log(2.0)
        if not self.vocabulary.drops_bytes:
            return {"loss": nats, "bits_per_byte": bits} | others
        if kept is None:
            kept = len(self.corpus.splits[split]) / self.corpus.bytes_per_split[split]
        if self.vocabulary.learned:
            others["perplexity"] = math.exp(min(nats, 700.0))  # beyond, it is no float
        return {"loss": nats, "bits_per_symbol": bits, "bits_per_original_byte": bits * kept} | others

    def evaluate(
        self,
        params,
        split: str,
        *,
        limit: int | None = None,
        context: int = 0,
        stride: int = 0,
        batch_size: int = 0,
        mesh: Mesh | None = None,
    ) -> dict[str, float]:
        """Scores a split, every target exactly once, with at least `context - stride` tokens before it.

        Args:
          params: parameters.
          split: "train", "valid" or "test".
          limit: score only the first `limit` targets; 0 or None scores all (but the first token, which has no context).
          context, stride, batch_size: 0 takes those of `config.eval`. Of streams, `batch_size` of them, `context`
            targets are read at once, and there is no stride: each target has the whole of its stream before it.
          mesh: devices over which a batch is spread; None: the default device.

        Returns:
          `report`'s names, and `targets`, the number of targets scored.
        """
        settings = self.config.eval
        context, stride = context or settings.context, stride or settings.stride
        batch_size = batch_size or settings.batch_size
        task = self.scorer_of(params)
        if task.model.max_length is not None and context > task.model.max_length:
            raise UserError(f"context={context} exceeds the {task.model.max_length} positions of the model")
        if split not in self.corpus.splits:
            raise UserError(f"split={split!r}; one of {', '.join(self.corpus.splits)} is allowed")
        share, rows = (0, 1), batch_size
        if mesh is not None:  # whole rows on every device: the scorer fills up with rows of weight 0
            share = reader_share(mesh)
            rows += -rows % math.prod(mesh.shape[axis] for axis in BATCH)
        place = dict(batch_size=rows, process_index=share[0], process_count=share[1])
        batches = self.batches_to_score(split, limit, context=context, stride=stride, streams=batch_size, **place)
        nats, targets, carry = 0.0, 0.0, ()
        for batch in batches:
            batch = batch if mesh is None else global_rows(batch, mesh, rows)
            (total, count), carry = task.score(params, batch, carry)
            nats, targets = nats + float(total), targets + float(count)
        return {**self.report({"nats": nats / targets}, split), "targets": int(targets)}

    def batches_to_score(self, split: str, limit: int | None, *, context: int, stride: int, streams: int, **place):
        """The batches of `evaluate`, of `batch_size` rows each; `place` says which of them are this process's."""
        tokens = self.corpus.splits[split]
        tokens = tokens[: limit + 1] if limit else tokens
        place["documents"] = self.documents(split)
        if self.config.eval.reader == "streams":
            return scoring_streams(tokens, length=context, streams=streams, **place)
        return scoring_batches(tokens, context=context, stride=stride, **place)

    @functools.cached_property
    def score(self):
        """Compiled: the sum of nats over a batch's scored targets and their number, and what streams carry on."""
        streams = self.config.eval.reader == "streams"

        def score(params, batch, carry):
            if streams and not jax.tree.leaves(carry):
                rows, length = batch["inputs"].shape
                carry = self.model.initial_state(rows, self.model.dtype, max_length=length)
            _, (metrics, carry) = self.loss(params, batch, carry)
            return metrics["nats"], carry

        return jax.jit(score)

    def scorer_of(self, params):
        """The task that scores these parameters: its model has the settings of `config.eval.model`, and its streams
        project nothing twice. The same object, and so compiled once, as long as it suits the parameters."""
        task = self.scorer.adapt(params, frozen=self.config.eval.reader == "streams")
        return self._scorers.setdefault(repr(task.adapted), task)

    def _with_eval_model(self):
        fields, config = tuple(self.config.eval.model), self.config.model.copy_and_resolve_references().unlock()
        if not fields:
            return self
        set_fields(config, fields, source="config.eval.model")
        model = self.make_model(config)
        inputs = jax.random.key(0), jnp.zeros((1, 1), jnp.int32)
        shapes = [jax.tree.map(lambda x: x.shape, jax.eval_shape(like.init, *inputs)) for like in (self.model, model)]
        if shapes[0] != shapes[1]:
            raise UserError(f"config.eval.model={fields!r} changes the parameters, not only what is computed with them")
        return self._with(model)

    def sample(self, params, key: jax.Array) -> str:
        """Text that the model writes after `config.sample.prompt`."""
        return self.continue_text(params, key, **self.config.sample)

    def generation_state(self, length: int):
        """What generating one stream of `length` tokens keeps in memory."""
        return self.model.initial_state(1, self.model.dtype, max_length=length)

    def mult_adds(self, params) -> dict[str, float]:
        return {"30 tokens": mult_adds(self.model, params, 30)}

    def encode_prompt(self, prompt: str) -> np.ndarray:
        """The ids of a prompt, whatever bytes the command line took it from."""
        return self.symbols.encode(os.fsencode(prompt)).astype(np.int32)

    @property
    def symbols(self):
        """The vocabulary; that of words is known once the corpus has been read."""
        return self.corpus.vocabulary if self.vocabulary.learned else self.vocabulary

    def continue_text(self, params, key: jax.Array, *, prompt: str, length: int, temperature: float, top_k: int) -> str:
        """Text that the model writes after a prompt.

        Args:
          params: parameters.
          key: PRNG key of the draws.
          prompt: text of at least one token.
          length: tokens to write.
          temperature, top_k: see `effjax.models.generation.generate`.

        Returns:
          The new text, without the prompt; what is no UTF-8 is replaced.

        Raises:
          UserError: a prompt that is empty, too long, or holds what the vocabulary does not.
        """
        ids = jnp.asarray(self.encode_prompt(prompt)[None])
        model = self.adapt(params, frozen=True).model
        tokens = generate(model, params, ids, length=length, key=key, temperature=temperature, top_k=top_k)
        text = self.symbols.decode(np.asarray(tokens[0])).decode("utf-8", errors="replace")
        return f" {text}" if self.vocabulary.learned else text  # words stand apart
