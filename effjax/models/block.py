"""Blocks, pre-norm or post-norm: mix positions, look up a source where there is one, feed each position forward."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from effjax.layers.cross import CrossAttention, SourceRows
from effjax.layers.feed_forward import FeedForward
from effjax.layers.mixer import Mixer

NORMS = ("pre", "post")
LayerNorm = nn.remat(nn.LayerNorm, prevent_cse=False)  # keeps its input for the backward pass, and nothing else


class Half(nn.Module):
    """Norm, dropout and, post-norm, the residual sum around one half of a block.

    - "pre": `dropout(inside(norm(x)))`; the residual sum belongs to the stack.
    - "post": `norm(x + dropout(inside(x)))`, the new stream.

    Attributes:
      norm: one of the above.
      dropout_rate: on the output.
      dropout_over_time: one dropout mask for all positions, as in trax.
      epsilon: of the norm, which is taken in float32.
      dtype: dtype of the computation.

    Source: "post": Vaswani et al. 2017 (1706.03762), section 3.1; "pre": Child et al. 2019 (1904.10509), section 5.2.
    """

    norm: str = "pre"
    dropout_rate: float = 0.0
    dropout_over_time: bool = True
    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        if self.norm not in NORMS:
            raise ValueError(f"norm={self.norm!r}; one of {', '.join(NORMS)} is allowed")

    def around(self, x, inside, deterministic):
        """Applies the half whose inside is `inside(x) -> (y, rest)`; returns `(y, rest)`."""
        post = self.norm == "post"
        # The stream of a post-norm block is the norm's output: it stays as wide as the residual sum.
        norm = LayerNorm(self.epsilon, dtype=x.dtype if post else self.dtype, name="norm")
        dropout = nn.Dropout(self.dropout_rate, broadcast_dims=(1,) if self.dropout_over_time else ())
        y, rest = inside(x.astype(self.dtype) if post else norm(x))
        y = dropout(y, deterministic=deterministic)
        return (norm(x + y.astype(x.dtype)) if post else y), rest


class Mixing(Half):
    """The half of a block that exchanges information between positions.

    Attributes:
      make_mixer: constructor of the token mixer, called with `dtype` (a partial of a class of `effjax.layers.MIXERS`).
      and those of `Half`.
    """

    make_mixer: Callable[..., Mixer] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], state, replay, *, shared=None, deterministic: bool, **sequence):
        """Returns the output, the mixer's state after this piece, and the discrete choices to replay."""
        mixer = self.make_mixer(dtype=self.dtype, name="mixer")
        names = mixer.shared_params()
        if names:
            sequence["shared"] = {name: shared[name] for name in names}

        def inside(x):
            y, *rest = mixer.mix(x, state, replay, deterministic=deterministic, **sequence)
            return y, rest

        y, (state, replay) = self.around(x, inside, deterministic)
        return y, state, replay


class Crossing(Half):
    """The part of a block that looks up a source, between the two halves.

    Attributes:
      make_cross: constructor of the attention, called with `dtype`.
      and those of `Half`.
    """

    make_cross: Callable[..., CrossAttention] | None = None

    def setup(self):
        self.mixer = self.make_cross(dtype=self.dtype)

    def read(self, source, padding_mask, segment_ids) -> SourceRows:
        """What the attention keeps of a source."""
        return self.mixer.read(source, padding_mask, segment_ids)

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], source: SourceRows, *, deterministic: bool, **sequence):
        inside = lambda x: (self.mixer(x, source, deterministic=deterministic, **sequence), ())
        return self.around(x, inside, deterministic)[0]


class Feeding(Half):
    """The half of a block that looks at each position by itself.

    Attributes:
      make_feed_forward: constructor of the network, called with `dtype`.
      and those of `Half`.
    """

    make_feed_forward: Callable[..., FeedForward] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], *, deterministic: bool) -> Float[Array, "B T D"]:
        feed_forward = self.make_feed_forward(dtype=self.dtype, name="feed_forward")
        return self.around(x, lambda x: (feed_forward(x, deterministic=deterministic), ()), deterministic)[0]


class Period(nn.Module):
    """The blocks that a stack repeats.

    Attributes:
      make_mixers: constructors of the token mixers, one per block, called with `dtype`.
      make_feed_forward: constructor of the feed-forward networks, called with `dtype`.
      make_cross: constructor of the attention to a source, called with `dtype`; None: blocks look up none.
      dropout_rate, dtype, norm, dropout_over_time, epsilon: as in `Half`.
    """

    make_mixers: tuple[Callable[..., Mixer], ...]
    make_feed_forward: Callable[..., FeedForward]
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    norm: str = "pre"
    dropout_over_time: bool = True
    epsilon: float = 1e-6
    make_cross: Callable[..., CrossAttention] | None = None

    def setup(self):
        options = dict(
            norm=self.norm,
            dropout_rate=self.dropout_rate,
            dropout_over_time=self.dropout_over_time,
            epsilon=self.epsilon,
            dtype=self.dtype,
        )
        self.mixing = [Mixing(make_mixer=make, **options) for make in self.make_mixers]
        self.crossing = [Crossing(make_cross=self.make_cross, **options) for _ in self.make_mixers if self.make_cross]
        self.feeding = [Feeding(make_feed_forward=self.make_feed_forward, **options) for _ in self.make_mixers]

    def __call__(self, x: Float[Array, "B T D"], shared=None) -> Float[Array, "B T D"]:
        """The period as it is first called, without state and with itself for a source: it makes the parameters."""
        for i in range(len(self.make_mixers)):
            x = x + self.mix(i, x, None, None, shared=shared, deterministic=True)[0]
            if self.make_cross:
                x = x + self.cross(i, x, self.read(i, x), deterministic=True)
            x = x + self.feed(i, x, deterministic=True)
        return x

    def mix(
        self,
        block: int,
        x,
        state,
        replay,
        *,
        positions=None,
        padding_mask=None,
        segment_ids=None,
        global_mask=None,
        shared=None,
        deterministic,
    ):
        """The first half of one block."""
        marked = {} if global_mask is None else {"global_mask": global_mask}
        return self.mixing[block](
            x,
            state,
            replay,
            positions=positions,
            padding_mask=padding_mask,
            segment_ids=segment_ids,
            shared=shared,
            deterministic=deterministic,
            **marked,
        )

    def read(self, block: int, source, padding_mask=None, segment_ids=None) -> SourceRows:
        """What one block keeps of a source."""
        return self.crossing[block].read(source, padding_mask, segment_ids)

    def cross(self, block: int, x, source, *, padding_mask=None, segment_ids=None, deterministic):
        """What one block finds in a source, between its two halves."""
        return self.crossing[block](
            x, source, padding_mask=padding_mask, segment_ids=segment_ids, deterministic=deterministic
        )

    def feed(self, block: int, x, *, deterministic):
        """The second half of one block."""
        return self.feeding[block](x, deterministic=deterministic)

    def names(self) -> list[tuple[str, ...]]:
        """Names of the parts of every block among the parameters, in the order in which they run."""
        parts = ("mixing", "crossing", "feeding") if self.make_cross else ("mixing", "feeding")
        return [tuple(f"{part}_{i}" for part in parts) for i in range(len(self.make_mixers))]

    def initial_states(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> list[Any]:
        """The state of every block's mixer before the first token."""
        return [mixer.initial_state(batch_size, dtype, max_length=max_length) for mixer in self.mixers()]

    def mixers(self) -> list[Mixer]:
        """The token mixers by themselves, without parameters."""
        return [make(dtype=self.dtype, parent=None) for make in self.make_mixers]
