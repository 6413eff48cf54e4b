"""Performer: softmax attention estimated by positive random features, whose sums are all a stream has to keep."""

from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from effjax.layers.mixer import at_least_one, neutralise
from effjax.layers.projections import SeparateHeads
from effjax.ops.favor import FavorState, favor_attention, favor_state
from effjax.ops.favor_features import GENERALISED, KERNELS, SCALINGS, favor_projection


@flax.struct.dataclass
class RunningSums:
    """Sums over all keys so far: O(1), however long the stream."""

    sums: FavorState
    index: jax.Array  # tokens seen so far


class PerformerAttention(SeparateHeads):
    """Multi-head attention with weights `phi(q_i) . phi(k_j)` for `exp(q_i . k_j / sqrt(H))`, linear in the length.

    The features' projection is a parameter named `projection`, so that a checkpoint, its evaluation and its generation
    use one and the same; no gradient reaches it, and `after_update` draws it anew every `redraw_interval` steps. There
    is no dropout on attention probabilities, since there are none; `dropout_rate` has nothing to act on.

    Attributes:
      n_features: rows M of the projection; 0, only with a generalised kernel, takes queries and keys themselves.
      kernel: "softmax", "hyperbolic", "trigonometric", "relu", "elu", "abs" or "sigmoid".
      orthogonal: draw rows orthogonal to each other within blocks of H.
      scaling: lengths of orthogonal rows, "gaussian" or "constant".
      per_head: a projection for each head rather than one for all.
      epsilon: added to features, see `effjax.ops.favor.favor_attention`; None takes the kernel's own.
      redraw_interval: steps between two draws of the projection; 0 keeps the first.
      chunk_size: positions whose features exist at once.
      and those of `SeparateHeads`; implementations are those of `effjax.ops.favor.favor_attention`.

    Source: Choromanski et al. 2021 (2009.14794), sections 2.2 to 2.4; redrawing: section 4.2 and its public code.
    """

    bounded_state: ClassVar[bool] = True

    n_features: int = 256
    kernel: str = "softmax"
    orthogonal: bool = True
    scaling: str = "gaussian"
    per_head: bool = False
    epsilon: float | None = None
    redraw_interval: int = 1000
    chunk_size: int = 64

    def __post_init__(self):
        super().__post_init__()
        at_least_one(chunk_size=self.chunk_size)
        for name, allowed in (("kernel", KERNELS), ("scaling", SCALINGS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}; one of {', '.join(allowed)} is allowed")
        if self.n_features < (self.kernel not in GENERALISED):
            raise ValueError(
                f"n_features={self.n_features} with kernel={self.kernel!r}; 1 or more is allowed, and 0 with "
                f"{', '.join(GENERALISED)}"
            )
        if self.redraw_interval < 0:
            raise ValueError(f"redraw_interval={self.redraw_interval}; 0 (never) or more steps is allowed")

    def setup(self):
        super().setup()
        self.projection = self.param("projection", self.draw) if self.n_features else None

    def draw(self, key):
        """A projection, `[M, H]` or `[N, M, H]`."""
        return favor_projection(
            key,
            self.n_features,
            self.head_dim,
            n_heads=self.n_heads if self.per_head else None,
            orthogonal=self.orthogonal,
            scaling=self.scaling,
        )

    def mix(
        self, x, state=None, replay=None, *, positions=None, padding_mask=None, segment_ids=None, deterministic=True
    ):
        x = neutralise(x, padding_mask)
        q, k, v = self.project(x, positions, state)
        k, v = self.for_each_query_head(k, v)
        if state is not None and segment_ids is None:
            segment_ids = jnp.zeros(x.shape[:2], jnp.int32)
        y, sums = favor_attention(
            q,
            k,
            v,
            projection=None if self.projection is None else lax.stop_gradient(self.projection),
            kernel=self.kernel,
            causal=self.causal,
            state=None if state is None else state.sums,
            padding_mask=padding_mask,
            segment_ids=segment_ids,
            epsilon=self.epsilon,
            chunk_size=self.chunk_size,
            implementation=self.implementation,
        )
        if state is not None:
            state = RunningSums(sums, state.index + x.shape[1])
        return neutralise(self.out(y), padding_mask), state, ()

    @property
    def outlives_updates(self) -> bool:
        """Sums of one projection's features say nothing to another's."""
        return not (self.redraw_interval and self.n_features)

    def after_update(self, params, *, step, key):
        """The parameters, with another projection after every `redraw_interval`-th step."""
        if not self.redraw_interval or not self.n_features:
            return params
        due = (step + 1) % self.redraw_interval == 0
        return params | {"projection": lax.cond(due, self.draw, lambda key: params["projection"], key)}

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> RunningSums:
        if not self.causal:
            raise ValueError("causal=False cannot stream: a token's output needs tokens that are still to come")
        rows = self.n_features or self.head_dim
        sums = favor_state(batch_size, self.n_heads, self.head_dim, rows, kernel=self.kernel)
        return RunningSums(sums, jnp.zeros((), jnp.int32))
