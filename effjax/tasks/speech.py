"""Speech recognition: a Conformer learns transcripts under CTC or as a transducer, measured in word error rate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from effjax.data.utterances import Units
from effjax.errors import UserError
from effjax.layers.subsampling import FACTOR
from effjax.models.conformer import ConformerEncoder
from effjax.models.speech import CTCModel, TransducerModel
from effjax.models.transcription import TransducerBeam, ctc_beam, transcribe
from effjax.ops.log_mel import log_mel, normalise_frames
from effjax.ops.spec_augment import spec_augment
from effjax.tasks.example_task import ExampleTask
from effjax.tasks.speech_data import SpeechData
from effjax.training.metrics import Means
from effjax.training.step import LOSS

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def conformer_config() -> ConfigDict:
    """The fields of `config.model`, the small model's; `decoder_width` and `joint_width` are a transducer's."""
    return ConfigDict(
        dict(
            d_model=144,
            n_layers=16,
            n_heads=4,
            kernel_size=32,
            d_ff=0,
            chunk_size=0,
            left_chunks=4,
            dropout_rate=0.1,
            norm_momentum=0.99,
            position_encoding="relative",
            remat=False,
            decoder_width=320,
            joint_width=640,
        )
    )


def speech_options() -> ConfigDict:
    """The fields of `config.options`.

    `loss`: ctc or transducer. `units`: characters, or words. `front_end`: log_mel of sound, or
    features that were computed before. `length` and `labels`: of a row, in samples (features: frames) and symbols;
    `scored_length` and `scored_labels`: of the other splits, which leave nothing out (0: no other).
    `beam`: prefixes kept in decoding, 0: greedy. `fill`, `drop_longer`: see `effjax.data.utterances`.
    """
    return ConfigDict(
        dict(
            loss="ctc",
            units=tuple(" 'ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
            front_end="log_mel",
            sample_rate=16_000,
            n_mels=80,
            window=0.025,
            hop=0.010,
            n_features=13,
            normalise=True,
            length=256_000,
            labels=320,
            scored_length=0,
            scored_labels=0,
            fill=False,
            drop_longer=True,
            digits=(3, 7),
            beam=0,
            augment=dict(n_frequency_masks=2, frequency_width=27, n_time_masks=10, time_ratio=0.05, time_width=100),
        )
    )


class Speech(ExampleTask):
    """Transcribes utterances: loss is the mean of `-log p(y | x)` per label, in nats.

    Parameters are the collections of the model, `params` and `batch_stats`: the loss hands the new running statistics
    of the batch norms on as its carry, and `absorb` puts them among the parameters, so that a checkpoint's
    parameters are all that scoring needs. Scores are the error rates of words and characters over the whole split.

    Args:
      config: a whole configuration; this task reads `data`, `model`, `options`, `eval`, `batch_size`, `dtype`, `seed`.

    Raises:
      UserError: a setting that does not exist or does not fit.

    Source: Gulati et al. 2020 (2005.08100).
    """

    def __init__(self, config):
        super().__init__(config)
        options = config.options
        allowed = dict(loss=("ctc", "transducer"), front_end=("log_mel", "features"))
        for name, values in allowed.items():
            if options[name] not in values:
                raise UserError(f"config.options.{name}={options[name]!r}; {' or '.join(values)} is allowed")
        if config.dtype not in DTYPES:
            raise UserError(f"config.dtype={config.dtype!r}; one of {', '.join(DTYPES)} is allowed")
        for name, least in (("beam", 0), ("length", 1), ("labels", 1), ("scored_length", 0), ("scored_labels", 0)):
            if options[name] < least:
                raise UserError(f"config.options.{name}={options[name]}; {least} or more is allowed")
        if config.eval.metric not in ("loss", "word_error_rate", "character_error_rate"):
            raise UserError(
                f"config.eval.metric={config.eval.metric!r}; loss, word_error_rate or character_error_rate is allowed"
            )
        if config.sample.length:
            raise UserError(f"config.sample.length={config.sample.length}: speech is read, not written; 0 is allowed")
        self.units = Units(options.units)
        self.data = SpeechData(config, self.units)
        self.splits = self.data.splits
        try:
            self.model = self.make_model(config.model)
            self._statistics = self.abstract_params["batch_stats"]  # traced now: what does not fit shows
        except ValueError as error:
            raise UserError(f"config.model or config.options: {error}") from error

    def make_model(self, section) -> CTCModel | TransducerModel:
        """The model that a configuration's `model` section describes."""
        widths = ("decoder_width", "joint_width")
        fields = {name: value for name, value in section.items() if name not in widths}
        dtype = DTYPES[self.config.dtype]
        encoder = ConformerEncoder(**fields, dtype=dtype)
        if self.config.options.loss == "ctc":
            return CTCModel(encoder, self.units.size, dtype)
        return TransducerModel(encoder, self.units.size, **{name: section[name] for name in widths}, dtype=dtype)

    def examples(self, split: str):
        return self.data.examples(split)

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        options, rows = self.config.options, self.config.batch_size
        width = (options.n_features,) if options.front_end == "features" else ()
        row = jax.ShapeDtypeStruct((rows,), jnp.int32)
        return {
            "inputs": jax.ShapeDtypeStruct((rows, options.length, *width), jnp.float32),
            "input_lengths": row,
            "labels": jax.ShapeDtypeStruct((rows, options.labels), jnp.int32),
            "label_lengths": row,
        }

    def init(self, key: jax.Array):
        shape = (1, 8, self.n_features)
        arguments = (jnp.zeros(shape), jnp.ones((1, 2), jnp.int32), jnp.full(1, 2))
        rules = dict(padding_mask=jnp.ones(shape[:2], bool), method="nats")
        return dict(self.model.init(key, *arguments, **rules))

    @property
    def n_features(self) -> int:
        """Numbers of a frame that enter the model."""
        options = self.config.options
        return options.n_features if options.front_end == "features" else options.n_mels

    def initial_carry(self, batch_size: int):
        """Statistics, which no step reads: each begins with those among the parameters."""
        del batch_size
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self._statistics)

    def absorb(self, params, carry):
        """The statistics of the step among the parameters; of an accumulated one the mean over its pieces."""
        return params | {"batch_stats": jax.tree.map(lambda pieces: pieces.mean(0), carry)}

    def features(self, batch):
        """What enters the model, and which frames are real."""
        options = self.config.options
        if options.front_end == "features":
            x = batch["inputs"]
            padding_mask = jnp.arange(x.shape[1]) < batch["input_lengths"][:, None]
        else:
            settings = {name: options[name] for name in ("sample_rate", "n_mels", "window", "hop")}
            x, padding_mask = log_mel(batch["inputs"], batch["input_lengths"], **settings)
        return normalise_frames(x, padding_mask) if options.normalise else x, padding_mask

    def loss(self, params, batch, carry=(), *, key=None, deterministic: bool = True):
        """Mean nats per label, over the utterances that have an alignment; see `LanguageModelling.loss`."""
        x, padding_mask = self.features(batch)
        rngs = None
        if not deterministic:
            augment_key, dropout_key = jax.random.split(key)
            x = spec_augment(x, padding_mask, key=augment_key, **self.config.options.augment)
            rngs = {"dropout": dropout_key}
        labels, lengths = batch["labels"], batch["label_lengths"]
        nats, new = self.model.apply(
            params,
            x,
            labels,
            lengths,
            padding_mask=padding_mask,
            deterministic=deterministic,
            rngs=rngs,
            mutable=["batch_stats"],
            method="nats",
        )
        frames = -(-padding_mask.sum(1) // FACTOR)
        needed = self.model.min_frames(labels, lengths)
        weights = batch.get("example_weights", jnp.ones(len(nats)))
        aligned = weights * (frames >= needed)
        total, count = jnp.sum(jnp.where(aligned > 0, nats, 0.0)), jnp.sum(aligned * lengths)
        metrics = {LOSS: (total, count), "without_alignment": (jnp.sum(weights - aligned), jnp.sum(weights))}
        carry = () if deterministic else jax.lax.stop_gradient(new["batch_stats"])
        return total / jnp.maximum(count, 1.0), (metrics, carry)

    def report(self, metrics: dict[str, float], split: str = "train") -> dict[str, float]:
        """What is logged of mean metrics: the loss; the share of utterances too short for their transcript."""
        del split
        return {"loss": metrics[LOSS]} | {name: value for name, value in metrics.items() if name != LOSS}

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
        """The loss, the error rates `(S + D + I) / N` of words and of characters over the whole split, and its size;
        arguments as of `ExampleTask.evaluate`."""
        import jiwer

        self.check_windows(context, stride)
        means, spoken, heard = Means(), [], []
        for batch in self.scoring_batches(split, limit=limit, batch_size=batch_size, mesh=mesh):
            metrics, *symbols = self.score(params, batch)
            symbols, lengths, labels, label_lengths, weights = map(_everywhere, symbols)
            means.add(metrics)
            if self.config.options.beam:
                found = self.search(params, batch)
            else:
                found = [row[:length] for row, length in zip(symbols, lengths)]
            for row in np.flatnonzero(weights):
                spoken.append(self.units.decode(labels[row, : label_lengths[row]]))
                heard.append(self.units.decode(found[row]))
        rates = {"word_error_rate": jiwer.wer(spoken, heard), "character_error_rate": jiwer.cer(spoken, heard)}
        words = sum(len(text.split()) for text in spoken)
        return self.report_of(means, split) | rates | {"utterances": len(spoken), "words": words}

    @functools.cached_property
    def score(self):
        """Compiled: the metrics of a batch, the greedy symbols and the labels of its rows."""

        def score(params, batch):
            metrics = self.loss(params, batch)[1][0]
            symbols = transcribe(self.model, params, *self.features(batch))
            weights = batch.get("example_weights", jnp.ones(len(batch["labels"])))
            return metrics, *symbols, batch["labels"], batch["label_lengths"], weights

        return jax.jit(score)

    @functools.cached_property
    def encode(self):
        """Compiled: what decoding reads of every frame, and which frames are real."""

        def encode(params, batch):
            x, padding_mask = self.features(batch)
            return self.model.apply(params, x, padding_mask=padding_mask)[:2]

        return jax.jit(encode)

    def search(self, params, batch) -> list[tuple[int, ...]]:
        """The symbols of each row by a beam of `config.options.beam` prefixes."""
        return [best[0][0] for best in self.hypotheses(params, batch)]

    def hypotheses(self, params, batch):
        """Of each row, the sequences that the beam ends with and their log-probabilities, the best one first."""
        beam = self.config.options.beam
        scores, real = map(_everywhere, self.encode(params, batch))
        rows = [row[: mask.sum()] for row, mask in zip(scores, real)]
        if self.config.options.loss == "ctc":
            return [ctc_beam(row, beam) for row in rows]
        search = TransducerBeam(self.model, params, beam)
        return [search(row) for row in rows]

    def predict(self, params, source: str, *, key: jax.Array):
        """The transcript of a sound file, or of a file of features; `text`, `seconds`, and of a beam `alternatives`
        with their log-probabilities."""
        del key
        sound, seconds = self.data.read(source)
        batch = {"inputs": jnp.asarray(sound)[None], "input_lengths": jnp.array([len(sound)])}
        if self.config.options.beam:
            found = self.hypotheses(params, batch)[0]
            texts = [{"text": self.units.decode(ids), "log_probability": round(score, 4)} for ids, score in found]
            return {"text": texts[0]["text"], "seconds": seconds, "alternatives": texts}
        symbols, count = jax.jit(lambda params, batch: transcribe(self.model, params, *self.features(batch)))(
            params, batch
        )
        return {"text": self.units.decode(np.asarray(symbols[0, : int(count[0])])), "seconds": seconds}


def _everywhere(x) -> np.ndarray:
    """A global array in every process."""
    return np.asarray(multihost_utils.process_allgather(x, tiled=True) if jax.process_count() > 1 else x)
