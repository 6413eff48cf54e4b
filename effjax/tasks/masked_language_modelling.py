"""Masked language modelling of a byte or symbol stream: an encoder fills gaps, measured in bits per hidden byte."""

import math

import jax
import jax.numpy as jnp

from effjax.data.masking import MaskedReader, masked_scoring_batches
from effjax.data.windows import WindowReader
from effjax.errors import UserError
from effjax.models.build import make_encoder
from effjax.tasks.language_modelling import DTYPES, LanguageModelling


class MaskedLanguageModelling(LanguageModelling):
    """Predicts hidden tokens from what stands around them: loss is the mean of `-log p(x_t | the rest)` in nats.

    15 % of the tokens are to be predicted (see `effjax.data.masking`): in training others in every step, as a function
    of `config.seed` and the step; in scores always the same ones of a split. The model has one id more than the
    vocabulary, the mask. Documents of a text run on into each other.

    Args:
      config: a whole configuration; this task reads `data`, `model`, `eval`, `batch_size`, `dtype`, `seed`.

    Raises:
      UserError: a setting that does not exist or does not fit.

    Source: Devlin et al. 2019 (1810.04805), section 3.1; as in RoBERTa (1907.11692), gaps are drawn as training goes.
    """

    keeps_apart = False

    def make_model(self, section):
        return make_encoder(section, vocab_size=self.vocabulary.size + 1, dtype=DTYPES[self.config.dtype])

    def check_lengths(self):
        config, longest = self.config, self.model.max_length
        for name, reader in (("data", config.data.reader), ("eval", config.eval.reader)):
            if reader != "windows":
                raise UserError(f"config.{name}.reader={reader!r}: a masked model carries no state; 'windows' only")
        if longest is not None and max(config.data.length, config.eval.context) > longest:
            raise UserError(
                f"config.data.length={config.data.length} and config.eval.context={config.eval.context} must not "
                f"exceed the {longest} positions that the model reaches (config.model.axial.shape, and max_length in "
                "the sections of its mixers)"
            )

    def check_sample(self, sample):
        raise UserError(f"config.sample.length={sample.length}: {NO_TEXT}; 0 is allowed")

    def train_reader(self, process_index: int, process_count: int):
        config = self.config
        windows = WindowReader(
            self.corpus.splits["train"],
            length=config.data.length,
            stride=config.data.stride or config.data.length,
            batch_size=config.batch_size,
            seed=config.seed,
            process_index=process_index,
            process_count=process_count,
        )
        return MaskedReader(windows, seed=config.seed, vocab_size=self.vocabulary.size)

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        batch = super().abstract_batch()
        return batch | {"weights": jax.ShapeDtypeStruct(batch["inputs"].shape, jnp.float32)}

    def batches_to_score(self, split: str, limit: int | None, *, context: int, stride: int, streams: int, **place):
        """As in language modelling; `limit` counts the tokens among which the gaps lie."""
        tokens = self.corpus.splits[split]
        tokens = tokens[:limit] if limit else tokens
        size = self.vocabulary.size
        return masked_scoring_batches(tokens, split, vocab_size=size, context=context, stride=stride, **place)

    def report(self, metrics: dict[str, float], split: str = "train", *, kept: float | None = None) -> dict[str, float]:
        """What is logged of mean metrics: the loss, and bits per hidden byte (symbol, where the vocabulary drops any).

        Args:
          metrics: `{"nats": mean}`, and what else is to be logged as it is.
          split, kept: not used.
        """
        others = {name: value for name, value in metrics.items() if name != "nats"}
        unit = "symbol" if self.vocabulary.drops_bytes else "byte"
        bits = metrics["nats"] / math.log(2.0)
        return {"loss": metrics["nats"], f"masked_bits_per_{unit}": bits} | others

    def generation_state(self, length: int):
        """Nothing: no text is generated."""
        return ()

    def continue_text(self, params, key: jax.Array, **settings) -> str:
        raise UserError(NO_TEXT)


NO_TEXT = "a masked language model sees both sides of a gap and cannot write a text from left to right"
