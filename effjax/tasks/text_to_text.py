"""Tasks that read one text and write another: translation, summarisation."""

import functools
import math
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from effjax.accounting.mult_adds import mult_adds
from effjax.data.bpe import BEGIN, END, PAD, BytePairs, parse_size
from effjax.data.pair_batches import PairExamples
from effjax.data.text_pairs import load_text_pairs
from effjax.errors import UserError
from effjax.models.beam_search import NEVER, batch_axes, beam_search
from effjax.models.initial import redraw
from effjax.models.seq2seq import make_seq2seq
from effjax.tasks.example_task import ExampleTask
from effjax.tasks.language_modelling import DTYPES
from effjax.training.workdir import replace_text

BYTE_PAIRS = "byte_pairs.json"  # in the working directory


def text_options() -> ConfigDict:
    """Every key of these tasks' `options` section, with its default."""
    return ConfigDict(
        dict(
            source="",  # languages, where the corpus has some
            target="",
            source_length=64,  # tokens of a row of sources, their ends included; data.length is that of targets
            pack=True,  # several pairs in a row of a training batch
            truncate=False,  # training texts that are too long: shorten them, or leave their pairs out
            lowercase=False,
            learn_from=0,  # pairs from which byte pairs are learned; 0: all
            label_smoothing=0.1,
            beams=4,
            length_penalty=0.6,
            decode=("test",),  # splits whose scores include those of what the model writes
            count_lengths=(30, 30),  # tokens of the input and output of which `plan` counts multiply-adds
        )
    )


class TextToText(ExampleTask):
    """Writes a target text after a source: loss is the mean of `-log p(y_t | y_<t, source)` in nats, smoothed.

    Sources and targets share byte pairs (`config.data.vocabulary`, bpe:N), which are learned from the training split
    when they are first needed and kept in the working directory. A subclass measures what the model writes, in
    `quality`.

    Args:
      config: a whole configuration; this task reads `data`, `model`, `options`, `eval`, `batch_size`, `dtype`, `seed`.

    Raises:
      UserError: a setting that does not exist or does not fit.
    """

    files = (BYTE_PAIRS,)
    whole_file = True  # a file to predict is one text; otherwise every line is one

    def __init__(self, config):
        super().__init__(config)
        if config.dtype not in DTYPES:
            raise UserError(f"config.dtype={config.dtype!r}; one of {', '.join(DTYPES)} is allowed")
        self.vocab_size = parse_size(config.data.vocabulary)
        self.model = make_seq2seq(config.model, vocab_size=self.vocab_size, dtype=DTYPES[config.dtype])
        options = config.options
        for name in ("source_length", "beams"):
            if options[name] < 1:
                raise UserError(f"config.options.{name}={options[name]}; 1 or more is allowed")
        if not 0 <= options.label_smoothing < 1:
            raise UserError(f"config.options.label_smoothing={options.label_smoothing}; [0, 1) is allowed")
        lengths = {"encoder": ("options.source_length", options.source_length), "decoder": ("data.length", self.length)}
        for name, side in self.model.sides().items():
            field, length = lengths[name]
            if side.max_length is not None and length > side.max_length:
                raise UserError(f"config.{field}={length} exceeds the {side.max_length} positions of the {name}")
        if config.eval.metric not in ("loss", "perplexity"):
            raise UserError(f"config.eval.metric={config.eval.metric!r}; 'loss' or 'perplexity' is allowed")
        if config.sample.length:
            raise UserError(f"config.sample.length={config.sample.length}: see effjax.predict; 0 is allowed")
        self._notes = {}

    @property
    def length(self) -> int:
        """Tokens of a row of targets."""
        return self.config.data.length

    @functools.cached_property
    def corpus(self):
        """The texts."""
        config = self.config
        languages = dict(source=config.options.source, target=config.options.target)
        return load_text_pairs(config.data.name, path=config.data.path, **languages)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.corpus)

    @functools.cached_property
    def vocabulary(self) -> BytePairs:
        """The byte pairs: those of the working directory, or else learned, and kept there."""
        kept = None if self.workdir is None else self.workdir / BYTE_PAIRS
        if kept is not None and kept.exists():
            return BytePairs.load(kept)
        pairs = self.corpus["train"]
        n = min(self.config.options.learn_from or len(pairs), len(pairs))
        texts = (side[i] for i in range(n) for side in (pairs.source, pairs.target))
        vocabulary = BytePairs.learn(texts, self.vocab_size, lowercase=self.config.options.lowercase)
        if kept is not None and jax.process_index() == 0:
            replace_text(kept, vocabulary.to_text())
        return vocabulary

    @functools.cache  # noqa: B019 (a task lives as long as its examples are needed)
    def examples(self, split: str) -> PairExamples:
        config, training = self.config, split == "train"
        return PairExamples(
            self.corpus[split],
            self.vocabulary,
            source_length=config.options.source_length,
            target_length=self.length,
            truncate=config.options.truncate or not training,
            strict=not training,
            pack=config.options.pack and training,
            seed=config.seed,
        )

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        rows = self.config.batch_size
        source, target = ((rows, length) for length in (self.config.options.source_length, self.length))
        shapes = {"inputs": source, "previous": target, "targets": target}
        for side, shape in (("source", source), ("target", target)):
            shapes |= {f"{side}_segments": shape, f"{side}_positions": shape}
        return {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in shapes.items()}

    def init(self, key: jax.Array):
        ids = jnp.zeros((1, 1), jnp.int32)
        params = self.model.init(key, ids, ids)["params"]
        return redraw(params, tuple(self.config.model.init), jax.random.fold_in(key, 1))

    def loss(self, params, batch, carry=(), *, key=None, deterministic: bool = True):
        (nats, margin), sown = self.model.apply(
            {"params": params},
            batch["inputs"],
            batch["previous"],
            batch["targets"],
            source=self._sequence(batch, "source"),
            target=self._sequence(batch, "target"),
            deterministic=deterministic,
            rngs=None if key is None else {"dropout": key},
            mutable=["penalties"],
            method="nats",
        )
        real = (batch["target_segments"] > 0) * batch.get("example_weights", jnp.ones(len(nats)))[:, None]
        count = jnp.sum(real)
        metrics = {"nats": (jnp.sum(nats * real), count)}
        loss = metrics["nats"][0] / jnp.maximum(count, 1.0)
        if not deterministic:
            loss += self.config.options.label_smoothing * jnp.sum(margin * real) / jnp.maximum(count, 1.0)
            loss += self.model.penalty(params) + sum(jax.tree.leaves(sown))
            metrics |= {name: (value, 1.0) for name, value in self.model.metrics(params).items()}
        return loss, (metrics, carry)

    def _sequence(self, batch, side):
        segments = batch[f"{side}_segments"]
        rules = {"padding_mask": segments > 0, "positions": batch[f"{side}_positions"]}
        return rules | ({"segment_ids": segments} if self.config.options.pack else {})

    def after_update(self, params, *, step, key):
        return self.model.after_update(params, step=step, key=key)

    def report(self, metrics: dict[str, float], split: str = "train") -> dict[str, float]:
        """Nats per target token and their exponential, the perplexity of byte pairs."""
        others = {name: value for name, value in metrics.items() if name != "nats"}
        return {"loss": metrics["nats"], "perplexity": math.exp(min(metrics["nats"], 700.0))} | others

    def evaluate(self, params, split: str, *, limit: int | None = None, batch_size: int = 0, mesh=None, **windows):
        """As in `ExampleTask`; the splits of `config.options.decode` are written as well, and measured by `quality`."""
        place = dict(limit=limit, batch_size=batch_size, mesh=mesh)
        scores = super().evaluate(params, split, **place, **windows)
        if split in self.config.options.decode:
            written = self.write_split(params, split, **place)
            pairs, numbers = self.corpus[split], self.examples(split).numbers[: len(written)]
            scores |= self.quality(written, [pairs.target[i] for i in numbers])
        return scores

    def quality(self, written: list[str], references: list[str]) -> dict[str, float]:
        """How good texts are, given what they should be."""
        raise NotImplementedError

    def notes(self) -> dict[str, str]:
        return self._notes

    def write_split(self, params, split: str, **place) -> list[str]:
        """What the model writes for each source of a split, in order."""
        texts = []
        for batch in self.scoring_batches(split, **place):
            tokens, _ = self.search(params, batch["inputs"], batch["source_segments"] > 0)
            both = (tokens, batch["example_weights"])
            tokens, weights = multihost_utils.process_allgather(both, tiled=True)
            texts += [self.vocabulary.decode(row) for row in tokens[weights > 0]]
        return texts

    @functools.cached_property
    def search(self):
        """Compiled: the likeliest text for each source, `[B, T]`, and its score."""
        options, model, size = self.config.options, self.model, self.vocabulary.size

        def search(params, inputs, real):
            sources = model.apply({"params": params}, inputs, padding_mask=real, method="read")
            ids = jnp.arange(self.vocab_size)
            written = (ids != PAD) & (ids != BEGIN) & (ids < size)

            def step(tokens, state):
                scores, state = model.apply({"params": params}, tokens[:, None], state, sources, method="step")
                return jnp.where(written, scores, NEVER), state

            def state(rows):
                return model.initial_state(rows, model.dtype, max_length=self.length)

            found = beam_search(
                step,
                state(len(inputs) * options.beams),
                batch_axes(state),
                jnp.full(len(inputs), BEGIN, jnp.int32),
                end=END,
                beams=options.beams,
                max_length=self.length,
                length_penalty=options.length_penalty,
            )
            return found.tokens[:, 0], found.scores[:, 0]

        return jax.jit(search)

    def predict(self, params, source: str, *, key: jax.Array) -> dict:
        """Writes a text for each source: `text`, and `outputs` with the score of each."""
        sources = self.read_sources(source)
        ids = [ids[: self.config.options.source_length - 1] for ids in self.vocabulary.encode(sources)]
        inputs = np.full((len(ids), self.config.options.source_length), PAD, np.int32)
        for row, text in zip(inputs, ids):
            row[: len(text) + 1] = np.append(text, END)
        tokens, scores = self.search(params, inputs, inputs != PAD)
        texts = [self.vocabulary.decode(row) for row in np.asarray(tokens)]
        outputs = [
            {"source": text, "output": output, "score": float(score)}
            for text, output, score in zip(sources, texts, np.asarray(scores))
        ]
        return {"text": "\n".join(texts), "outputs": outputs}

    def read_sources(self, source: str) -> list[str]:
        """The texts of a file, or the text that was given.

        Raises:
          UserError: an empty text, or one that is too long and not to be shortened, with its line.
        """
        where, texts = "the input", [source]
        if os.path.isfile(source):  # False, unlike that of pathlib, for a text too long to be a name
            try:
                whole = pathlib.Path(source).read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{source} is no UTF-8: {error}") from None
            where, texts = source, [whole] if self.whole_file else whole.removesuffix("\n").split("\n")
        longest = self.config.options.source_length - 1
        for number, ids in enumerate(self.vocabulary.encode(texts), 1):
            line = f"{where}, line {number}" if len(texts) > 1 else where
            if not len(ids):
                raise UserError(f"{line}: the text is empty; there is nothing to read")
            if len(ids) > longest and not self.config.options.truncate:
                raise UserError(f"{line}: {len(ids)} tokens; the model reads {longest} (config.options.source_length)")
        return texts

    def generation_state(self, length: int):
        """What writing one text keeps in memory, for all its beams: of the target, and of the source."""
        beams, ids = self.config.options.beams, jnp.zeros((1, self.config.options.source_length), jnp.int32)
        read = lambda params: self.model.apply({"params": params}, ids, method="read")
        sources = jax.eval_shape(read, self.abstract_params)
        sources = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sources)
        return self.model.initial_state(beams, self.model.dtype, max_length=length), sources

    def mult_adds(self, params) -> dict[str, float]:
        source, target = self.config.options.count_lengths
        return {f"{source} source and {target} target tokens": mult_adds(self.model, params, source, target)}
