"""Classification of documents, or of pairs of them, by an encoder."""

import errno
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from effjax.data.labelled_sources import get_source
from effjax.errors import UserError
from effjax.models.classifier import make_classifier
from effjax.models.initial import redraw
from effjax.tasks.example_task import ExampleTask
from effjax.tasks.language_modelling import DTYPES
from effjax.tasks.pretrained import pretrained_encoder

SEPARATOR = b"\t"  # between the two documents of a pair
READ = ("data", "options")  # parts of a configuration on which the examples depend


def classification_options(data_name: str, **changes) -> ConfigDict:
    """Every key of `config.options` for a data set, with its default.

    Raises:
      UserError: no data set of that name.
    """
    common = dict(
        pooling="cls",  # "cls": a token before the document; "mean"
        interaction="concat",  # of two documents: "concat", "nli"
        d_hidden=0,  # of the layer between the document's vector and the classes; 0: model.d_ff
        init_from="",  # workdir of a masked language model whose encoder training starts from
    )
    return ConfigDict(common | get_source(data_name).OPTIONS | changes)


class Classification(ExampleTask):
    """Says of each document which class it belongs to: loss is the mean of `-log p(class | document)` in nats.

    `config.mixer`, where the configuration has it, names the token mixer of every block; its settings are in
    `config.model`. With `options.init_from` training starts from the encoder of a masked language model; the token that
    a class is read from starts as its mask.

    Args:
      config: a whole configuration; this task reads `data`, `model`, `mixer`, `options`, `eval`, `batch_size`, `dtype`.

    Raises:
      UserError: a setting that does not exist or does not fit.
    """

    def __init__(self, config):
        super().__init__(config)
        if config.dtype not in DTYPES:
            raise UserError(f"config.dtype={config.dtype!r}; one of {', '.join(DTYPES)} is allowed")
        self.source, options = get_source(config.data.name), config.options
        self.classes, self.pairs = self.source.CLASSES, getattr(self.source, "PAIRS", False)
        section = section_of_mixer(config)
        self.model = make_classifier(
            section,
            vocab_size=self.source.vocab_size(config),
            dtype=DTYPES[config.dtype],
            n_classes=len(self.classes),
            pooling=options.pooling,
            towers=1 + self.pairs,
            interaction=options.interaction,
            d_hidden=options.d_hidden or section.d_ff,
        )
        longest = self.model.max_length
        if longest is not None and config.data.length > longest:
            raise UserError(
                f"config.data.length={config.data.length} must not exceed the {longest} positions that the model "
                "leaves a document (config.model.axial.shape, and max_length in the sections of its mixers; one goes "
                "to the token that stands before it with options.pooling='cls')"
            )
        scores = self.report({name: 0.0 for name in ("nats", "error", *self._counts())})
        if config.eval.metric not in scores or config.eval.metric in ("accuracy", "f1"):
            raise UserError(f"config.eval.metric={config.eval.metric!r}; 'error_rate' or 'loss' is allowed")

    def examples(self, split: str):
        return self._splits[split]

    def at_stage(self, config):
        task = super().at_stage(config)
        if task is not self and all(getattr(task.config, part) == getattr(self.config, part) for part in READ):
            task._splits = self._splits  # one reading for all
        return task

    @functools.cached_property
    def _splits(self):
        return self.source.load(self.config)

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        rows, shape = self.config.batch_size, (self.config.batch_size, self.config.data.length)
        batch = {"labels": jax.ShapeDtypeStruct((rows,), jnp.int32)}
        for ids, mask in (("inputs", "padding_mask"), ("others", "others_padding_mask"))[: 1 + self.pairs]:
            batch |= {ids: jax.ShapeDtypeStruct(shape, jnp.int32), mask: jax.ShapeDtypeStruct(shape, jnp.bool_)}
        return batch

    def train_reader(self, process_index: int, process_count: int):
        if self.config.options.init_from:
            self._pretrained  # noqa: B018 - found out before the first step
        return super().train_reader(process_index, process_count)

    def init(self, key: jax.Array):
        one = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)
        params = self.model.init(key, *one * (1 + self.pairs))["params"]
        params = redraw(params, tuple(self.config.model.init), jax.random.fold_in(key, 1))
        if not self.config.options.init_from:
            return params
        # Read when the program runs, not when it is traced: a plan or a restored run asks for shapes only.
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params["encoder"])
        return params | {"encoder": jax.pure_callback(lambda: self._pretrained, shapes)}

    @functools.cached_property
    def _pretrained(self):
        """The encoder of `options.init_from`, on the host."""
        return pretrained_encoder(self.config, self.abstract_params["encoder"])

    def logits(self, params, batch, *, key=None, deterministic: bool = True):
        """Scores of the classes, `[B, C]`, and what the mixers add to the loss."""
        logits, sown = self.model.apply(
            {"params": params},
            *(batch[name] for name in ("inputs", "padding_mask", "others", "others_padding_mask") if name in batch),
            deterministic=deterministic,
            rngs=None if key is None else {"dropout": key},
            mutable=["penalties"],
        )
        return logits, sum(jax.tree.leaves(sown))

    def loss(self, params, batch, carry=(), *, key=None, deterministic: bool = True):
        logits, sown = self.logits(params, batch, key=key, deterministic=deterministic)
        labels, weights = batch["labels"], batch.get("example_weights", jnp.ones(len(batch["labels"])))
        nats = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]
        said = jnp.argmax(logits, axis=-1)
        count = jnp.sum(weights)
        total = lambda values: (jnp.sum(values * weights), count)
        metrics = {"nats": total(nats), "error": total(said != labels)}
        for c in self._scored_classes():
            metrics |= {f"true_{c}": total(labels == c), f"said_{c}": total(said == c)}
            metrics[f"hit_{c}"] = total((said == c) & (labels == c))
        loss = metrics["nats"][0] / jnp.maximum(count, 1.0)
        if not deterministic:
            loss += self.model.penalty(params) + sown
        return loss, (metrics, carry)

    def _scored_classes(self) -> range:
        """Classes of which F1 is taken: of two, the second, what is to be found; of more, all, for their mean."""
        return range(1, 2) if len(self.classes) == 2 else range(len(self.classes))

    def _counts(self) -> list[str]:
        return [f"{kind}_{c}" for c in self._scored_classes() for kind in ("true", "said", "hit")]

    def report(self, metrics: dict[str, float], split: str = "train") -> dict[str, float]:
        """The loss in nats, the error rate, accuracy, and `f1 = 2 hits / (true + said)`."""
        del split
        f1 = [
            2 * metrics[f"hit_{c}"] / max(metrics[f"true_{c}"] + metrics[f"said_{c}"], 1e-30)
            for c in self._scored_classes()
        ]
        error = metrics["error"]
        return {"loss": metrics["nats"], "error_rate": error, "accuracy": 1 - error, "f1": sum(f1) / len(f1)}

    def continue_text(self, params, key: jax.Array, **settings) -> str:
        raise UserError("a classifier says what a document is and writes none; see effjax.predict")

    def after_update(self, params, *, step, key):
        return self.model.after_update(params, step=step, key=key)

    def predict(self, params, source: str, *, key: jax.Array) -> dict[str, Any]:
        """The class of one document: a file, or the text itself; of a pair, two texts with a tab between them."""
        del key
        name, data = read_source(source)
        read_input = getattr(self.source, "read_input", lambda config, data: data)
        parts = data.split(SEPARATOR, 1) if self.pairs else [data]
        if self.pairs and len(parts) != 2:
            raise UserError(f"{name}: two documents with a tab between them are needed")
        try:
            documents = [self.source.encode(self.config, read_input(self.config, part)) for part in parts]
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        if min(map(len, documents)) == 0:
            raise UserError(f"{name}: the document is empty")
        length, batch = self.config.data.length, {}
        for ids, mask, document in zip(("inputs", "others"), ("padding_mask", "others_padding_mask"), documents):
            row, kept = np.zeros((1, length), np.int32), document[:length]
            row[0, : len(kept)] = kept
            batch |= {ids: row, mask: np.arange(length)[None] < len(kept)}
        probabilities = np.asarray(jax.nn.softmax(self.scores(params, batch)[0]), np.float64)
        best = int(np.argmax(probabilities))
        return {
            "text": f"{self.classes[best]} ({probabilities[best]:.1%})",
            "class": self.classes[best],
            "probabilities": {name: float(p) for name, p in zip(self.classes, probabilities)},
            "cut": any(len(document) > length for document in documents),
        }

    @functools.cached_property
    def scores(self):
        """Compiled: scores of the classes, `[B, C]`, of parameters and a batch."""
        return jax.jit(lambda params, batch: self.logits(params, batch)[0])


def section_of_mixer(config) -> ConfigDict:
    """`config.model`, with the mixer that `config.mixer` names in every block.

    Raises:
      UserError: a mixer for which `config.model` has no section.
    """
    section, mixer = config.model.copy_and_resolve_references(), config.get("mixer", "")
    if not mixer:
        return section
    if not isinstance(section.get(mixer), ConfigDict) or mixer in ("axial", "factorised", "adaptive"):
        known = [name for name, value in section.items() if isinstance(value, ConfigDict) and "causal" in value]
        raise UserError(f"config.mixer={mixer!r}; one of {', '.join(sorted(known))} is allowed")
    section = section.unlock()
    section.pattern = (mixer,)
    return section


def read_source(source: str) -> tuple[str, bytes]:
    """What an input is called, and its bytes: a file's where there is one of that name, else the text's own.

    Raises:
      UserError: a file that cannot be read.
    """
    try:
        path = epath.Path(source).expanduser()
        if "\n" not in source and path.is_file():
            return source, path.read_bytes()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # a text that is too long for a name is a text
            raise UserError(f"{source[:80]}: cannot be read: {error.strerror or error}") from error
    if epath.Path(source).suffix in (".txt", ".xml", ".png", ".tsv") and len(source.split()) == 1:
        raise UserError(f"{source}: there is no such file")
    return "the text", os.fsencode(source)
