"""An encoder: a stack whose positions see both sides, between an embedding and scores of tokens."""

from typing import Any

import jax.numpy as jnp

from effjax.models.decoder import Decoder


class Encoder(Decoder):
    """A decoder's parts around mixers that are not causal: `logits` at a position follow from the whole sequence.

    It has no state, and what it is told of a sequence, it is told at once. Attributes: those of `Decoder`.
    """

    @property
    def max_length(self) -> int | None:
        """Greatest length that the positions and every mixer reach; None where there is no bound."""
        reaches = [super().max_length, *(getattr(mixer, "max_length", None) for mixer in self.stack.period.mixers())]
        return min((reach for reach in reaches if reach is not None), default=None)

    @property
    def streams_forever(self) -> bool:
        return False

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int):
        raise ValueError("an encoder has no state: each of its outputs depends on what comes later")
