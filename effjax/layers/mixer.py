"""The contract of every token mixer: how positions exchange information, whatever the family."""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

State = Any  # a pytree of arrays: key/value cache, window, running sums, memory


class Mixer(nn.Module):
    """A layer that maps `[B, T, D]` to `[B, T, D]`, `y, state = mixer(x, state)`.

    `state=None` in gives `None` out (one pass over the whole sequence); where the family is causal,
    `initial_state` starts a stream, and any split of a sequence into pieces with the state carried along gives the
    output of one pass. Padded positions are neutralised on entry and 0 on exit.

    A family implements `mix`, which also takes and returns `replay`: the discrete choices (LSH buckets, for instance)
    that a recomputation must repeat rather than make again, or `()` where there are none.

    Attributes:
      d_model: width D of input and output.
      n_heads: number of heads N.
      head_dim: width H of a head.
      dropout_rate: dropout on the attention probabilities, where the family has them.
      dtype: dtype of the computation; parameters are float32.

    Raises ValueError at construction where a size makes no sense.

    A class sets `bounded_state` where its state has a bounded size, however long the stream; and `per_block` to the
    names of attributes that usually differ from block to block, which a configuration gives as one value per block; and
    `adaptive` to the names of those that `adapt` sets, which no configuration gives.
    """

    bounded_state: ClassVar[bool] = False
    per_block: ClassVar[tuple[str, ...]] = ()
    adaptive: ClassVar[tuple[str, ...]] = ()

    d_model: int
    n_heads: int
    head_dim: int
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        at_least_one(d_model=self.d_model, n_heads=self.n_heads, head_dim=self.head_dim)
        probability(dropout_rate=self.dropout_rate)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: State = None,
        *,
        positions: Int[Array, "B T"] | None = None,
        padding_mask: Bool[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "B T D"], State]:
        """Mixes positions.

        Args:
          x: inputs.
          state: what earlier pieces of the sequence left behind, or None.
          positions: position of each token, for families that encode them; the others ignore it.
          padding_mask: True at real tokens.
          segment_ids: tokens of different segments do not see each other.
          deterministic: no dropout.

        Returns:
          The outputs, and the state after this piece (None when none came in).
        """
        y, state, _ = self.mix(
            x,
            state,
            positions=positions,
            padding_mask=padding_mask,
            segment_ids=segment_ids,
            deterministic=deterministic,
        )
        return y, state

    def mix(self, x, state=None, replay=None, *, positions, padding_mask, segment_ids, deterministic):
        """As `__call__`, with the discrete choices to repeat as third argument and third result."""
        raise NotImplementedError

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> State:
        """State before the first token of `batch_size` streams of at most `max_length` tokens each.

        Past `max_length` the outputs of a family whose state grows are NaN.

        Raises:
          ValueError: the layer is not causal.
        """
        raise NotImplementedError

    def shared_params(self) -> dict[str, tuple[tuple[int, ...], Callable]]:
        """Parameters that all blocks of a model share: `{name: (shape, initializer)}`.

        The model makes them once and hands them to every block's `mix` as `shared={name: array}`, a keyword that only
        mixers with such parameters take. A layer that stands alone (`shared=None`) has its own.
        """
        return {}

    @property
    def outlives_updates(self) -> bool:
        """Whether a state may be carried from one training step to the next, `after_update` between them."""
        return True

    def after_update(self, params, *, step: Int[Array, ""], key: Key[Array, ""]):
        """What becomes of the layer's parameters after the optimizer's update number `step`: those that must stay
        within bounds are clipped, random features drawn anew. `key` is the step's and the layer's own."""
        del step, key
        return params

    def penalty(self, params) -> Float[Array, ""]:
        """What the layer's parameters add to the training loss, in nats per target."""
        del params
        return jnp.zeros(())

    @property
    def penalises_activations(self) -> bool:
        """Whether the layer adds to the training loss what depends on its inputs, `self.sow("penalties", name, nats)`
        in `mix`: a residual stack collects it, a reversible one could not."""
        return False

    def metrics(self, params) -> dict[str, Float[Array, ""]]:
        """What is worth logging of the layer's parameters; a model logs the mean of its layers, of names that begin
        with `max_` the greatest."""
        del params
        return {}

    def adapt(self, params, *, frozen: bool = False) -> dict[str, Any]:
        """Attributes to change so that static sizes follow what is learned, `{}` where they suit the parameters.

        Neither parameters nor, unless `frozen`, states change their shapes; results do not change but for rounding.

        Args:
          params: of the layer, concrete, each with a leading axis over the layers that share one body.
          frozen: they are not going to change.
        """
        del params, frozen
        return {}

    def fits(self, params) -> Bool[Array, ""]:
        """Whether the sizes that `adapt` chose still suit these parameters; traceable."""
        del params
        return jnp.asarray(True)

    def attention_dropout(self, deterministic: bool) -> dict[str, Any]:
        """Arguments of an op for dropout on the attention probabilities; none where nothing is dropped."""
        if deterministic or self.dropout_rate == 0.0:
            return {}
        return {"dropout_rate": self.dropout_rate, "dropout_key": self.make_rng("dropout")}


def at_least_one(**arguments: int) -> None:
    """Raises ValueError for an argument below 1, by name."""
    for name, value in arguments.items():
        if value < 1:
            raise ValueError(f"{name}={value}; 1 or more is allowed")


def probability(**arguments: float) -> None:
    """Raises ValueError for an argument outside [0, 1), by name."""
    for name, value in arguments.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name}={value}; 0 or more and less than 1 is allowed")


def neutralise(x: Float[Array, "B T *rest"], padding_mask: Bool[Array, "B T"] | None) -> Float[Array, "B T *rest"]:
    """Zeros at padded positions, whatever stood there (NaN too), with zero gradient."""
    if padding_mask is None:
        return x
    return jnp.where(padding_mask.reshape(padding_mask.shape + (1,) * (x.ndim - 2)), x, 0)


def stream_segments(x, padding_mask, segment_ids) -> Int[Array, "B T"]:
    """Segment of every token as a stream keeps it: what is given (0 without), -1 where padded, so that one
    comparison of equality serves packing, padding and slots that are still empty."""
    segments = jnp.zeros(x.shape[:2], jnp.int32) if segment_ids is None else segment_ids.astype(jnp.int32)
    return segments if padding_mask is None else jnp.where(padding_mask, segments, -1)


def token_positions(x, positions, state) -> Int[Array, "B T"]:
    """The positions given, or those that follow what a stream (`state.index` tokens; None: the start) has seen."""
    if positions is not None:
        return positions
    start = 0 if state is None else state.index
    return jnp.broadcast_to(start + jnp.arange(x.shape[1], dtype=jnp.int32), x.shape[:2])
