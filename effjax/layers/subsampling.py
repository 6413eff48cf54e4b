"""Frames become a quarter as many: two strided convolutions over time and frequency, and a projection."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from effjax.layers.dense import Dense
from effjax.layers.mixer import at_least_one, neutralise, probability

FACTOR = 4  # frames in for one out
TAPS = 3  # of either convolution, over time and over frequency


class SubsamplingState(NamedTuple):
    """The last two inputs of either convolution."""

    frames: jax.Array  # [B, 2, F, 1]
    halved: jax.Array  # [B, 2, ceil(F / 2), D]


class ConvolutionalSubsampling(nn.Module):
    """`[B, T, F] -> [B, ceil(T / 4), D]`: twice ReLU of a 3 x 3 convolution of stride 2, then a linear projection.

    Margins are fixed, one frame on either side, and not those of "same" padding, which would move with the length: an
    utterance gives the same outputs whatever it is padded to. A causal layer has both in the past.

    Attributes:
      d_model: channels of the convolutions and width D of the result.
      causal: an output sees no input after its own, frame 4 t; such a layer streams.
      dropout_rate: on the result.
      dtype: dtype of the computation.

    Source: Gulati et al. 2020 (2005.08100), section 2; Dong et al. 2018 (Speech-Transformer), section 3.
    """

    d_model: int
    causal: bool = False
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        at_least_one(d_model=self.d_model)
        probability(dropout_rate=self.dropout_rate)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T F"],
        state: SubsamplingState | None = None,
        *,
        padding_mask: Bool[Array, "B T"] | None = None,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"] | None, SubsamplingState | None]:
        """Outputs, which of them are real, and the state after this piece (None where none came in).

        Raises:
          ValueError: a state for a layer that sees the future, or a piece of a stream that is no multiple of 4 frames.
        """
        if state is not None and not self.causal:
            raise ValueError("state is given with causal=False: outputs need frames that are still to come")
        if state is not None and x.shape[1] % FACTOR:
            raise ValueError(f"x has {x.shape[1]} frames; pieces of a stream are multiples of {FACTOR}")
        y, tails = neutralise(x, padding_mask)[..., None].astype(self.dtype), []
        for name, tail in zip(("first", "second"), (None, None) if state is None else state):
            margin = (0, 0)
            if tail is not None:
                y = jnp.concatenate([tail.astype(y.dtype), y], axis=1)
                tails.append(y[:, y.shape[1] - 2 :].astype(tail.dtype))
            else:
                margin = (TAPS - 1, 0) if self.causal else (1, 1)
            conv = nn.Conv(self.d_model, (TAPS, TAPS), (2, 2), (margin, (1, 1)), dtype=self.dtype, name=name)
            padding_mask = None if padding_mask is None else padding_mask[:, ::2]
            y = neutralise(nn.relu(conv(y)), padding_mask)
        dense = Dense(self.d_model, dtype=self.dtype, name="outer")
        y = nn.Dropout(self.dropout_rate)(dense(y.reshape(*y.shape[:2], -1)), deterministic=deterministic)
        return neutralise(y, padding_mask), padding_mask, SubsamplingState(*tails) if tails else None

    def initial_state(self, batch_size: int, n_features: int, dtype: Any = jnp.float32) -> SubsamplingState:
        """State before the first frame of `batch_size` streams of frames of `n_features` numbers."""
        if not self.causal:
            raise ValueError("causal=False cannot stream: outputs need frames that are still to come")
        halved = (batch_size, TAPS - 1, -(-n_features // 2), self.d_model)
        return SubsamplingState(jnp.zeros((batch_size, TAPS - 1, n_features, 1), dtype), jnp.zeros(halved, dtype))
