"""Pre-norm blocks: mix positions, then feed each position forward."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from effjax.layers.feed_forward import FeedForward
from effjax.layers.mixer import Mixer


class Mixing(nn.Module):
    """`dropout(mixer(norm(x)))`, without the residual sum, which belongs to the stack.

    Attributes:
      make_mixer: constructor of the token mixer, called with `dtype` (a partial of a class of `effjax.layers.MIXERS`).
      dropout_rate: on the output; the mask is shared over time, as in trax.
      dtype: dtype of the computation; the norm is taken in float32.
    """

    make_mixer: Callable[..., Mixer]
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32

    def setup(self):
        self.norm = nn.LayerNorm(dtype=self.dtype)
        self.mixer = self.make_mixer(dtype=self.dtype)
        self.dropout = nn.Dropout(self.dropout_rate, broadcast_dims=(1,))

    def __call__(self, x: Float[Array, "B T D"], state, replay, *, deterministic: bool, **sequence):
        """Returns the output, the mixer's state after this piece, and the discrete choices to replay."""
        y, state, replay = self.mixer.mix(self.norm(x), state, replay, deterministic=deterministic, **sequence)
        return self.dropout(y, deterministic=deterministic), state, replay


class Feeding(nn.Module):
    """`dropout(feed_forward(norm(x)))`, without the residual sum.

    Attributes:
      make_feed_forward: constructor of the network, called with `dtype`.
      dropout_rate, dtype: as in `Mixing`.
    """

    make_feed_forward: Callable[..., FeedForward]
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32

    def setup(self):
        self.norm = nn.LayerNorm(dtype=self.dtype)
        self.feed_forward = self.make_feed_forward(dtype=self.dtype)
        self.dropout = nn.Dropout(self.dropout_rate, broadcast_dims=(1,))

    def __call__(self, x: Float[Array, "B T D"], *, deterministic: bool) -> Float[Array, "B T D"]:
        return self.dropout(self.feed_forward(self.norm(x), deterministic=deterministic), deterministic=deterministic)


class Period(nn.Module):
    """The blocks that a stack repeats.

    Attributes:
      make_mixers: constructors of the token mixers, one per block, called with `dtype`.
      make_feed_forward: constructor of the feed-forward networks, called with `dtype`.
      dropout_rate: on the output of each half-block.
      dtype: dtype of the computation.
    """

    make_mixers: tuple[Callable[..., Mixer], ...]
    make_feed_forward: Callable[..., FeedForward]
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32

    def setup(self):
        self.mixing = [Mixing(make, self.dropout_rate, self.dtype) for make in self.make_mixers]
        self.feeding = [Feeding(self.make_feed_forward, self.dropout_rate, self.dtype) for _ in self.make_mixers]

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """The residual form of the period, without state: it makes the parameters."""
        for i in range(len(self.make_mixers)):
            x = x + self.mix(i, x, None, None, deterministic=True)[0]
            x = x + self.feed(i, x, deterministic=True)
        return x

    def mix(self, block: int, x, state, replay, *, positions=None, padding_mask=None, segment_ids=None, deterministic):
        """The first half of one block."""
        return self.mixing[block](
            x,
            state,
            replay,
            positions=positions,
            padding_mask=padding_mask,
            segment_ids=segment_ids,
            deterministic=deterministic,
        )

    def feed(self, block: int, x, *, deterministic):
        """The second half of one block."""
        return self.feeding[block](x, deterministic=deterministic)

    def names(self) -> list[tuple[str, str]]:
        """Names of the two halves of every block among the parameters."""
        return [(f"mixing_{i}", f"feeding_{i}") for i in range(len(self.make_mixers))]

    def initial_states(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> list[Any]:
        """The state of every block's mixer before the first token."""
        mixers = [make(dtype=self.dtype, parent=None) for make in self.make_mixers]
        return [mixer.initial_state(batch_size, dtype, max_length=max_length) for mixer in mixers]
