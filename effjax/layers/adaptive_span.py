"""Attention whose heads learn how far back they look."""

import math
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from effjax.layers.mixer import Mixer, neutralise, stream_segments
from effjax.layers.projections import from_heads, to_heads
from effjax.ops.adaptive_span import adaptive_span_attention, check_sizes

BLOCK = 64  # the visited context changes by whole blocks


@flax.struct.dataclass
class RecentInputs:
    """The last inputs of a stream, from which keys and values are projected anew, so that they train the projections;
    or, of a layer whose parameters are `frozen`, those keys and values. O(span), whatever the length of the stream."""

    rows: tuple[jax.Array, ...]  # (inputs [B, K, D],) or (keys, values), [B, K, N, H] each; the newest last
    segment_ids: jax.Array  # [B, K], -1 where empty or padded
    index: jax.Array  # tokens seen so far


class AdaptiveSpanAttention(Mixer):
    """Multi-head attention to the tokens before a position, itself excluded, each head as far back as it has learned.

    Every head has a soft window of learned width z (`effjax.ops.adaptive_span`), a share c of `max_span`, or with
    `dynamic` one that is computed at every position, z_t = max_span sigmoid(u . x_t + b). Distances are told by one
    table of embeddings, which all heads share, and all layers too where a model hands it in (`shared_params`).

    Attributes:
      max_span: S, greatest distance, in tokens.
      ramp: R, tokens over which the window falls from 1 to 0.
      dynamic: the span is computed from the input.
      initial_span: c to begin with, 0 to 1, where the span is not computed.
      span_loss: the weight of the mean span in the loss (lambda).
      visited: distances that are computed; None: max_span. Where a window reaches further the output is NaN, which must
        not go unnoticed. `adapt` gives the value that suits given parameters.
      frozen: the parameters are not going to change: streams keep keys and values of `visited` positions, not inputs of
        max_span, so that nothing is projected twice.
      zero_cache: max_span zero inputs stand before every stream and are attended, as in the original; else they are
        masked. Documents cannot be kept apart with it.
      implementation: see `effjax.ops.relative.relative_attention`.

    Source: Sukhbaatar, Grave, Bojanowski & Joulin 2019 (1905.07799), section 3; its code,
      facebookresearch/adaptive-span.
    """

    bounded_state: ClassVar[bool] = True

    max_span: int = 1024
    ramp: int = 32
    dynamic: bool = False
    initial_span: float = 0.0
    span_loss: float = 0.0
    visited: int | None = None
    frozen: bool = False
    zero_cache: bool = False
    implementation: str | None = None

    def __post_init__(self):
        super().__post_init__()
        check_sizes(self.max_span, self.ramp, self.visited)
        if not 0 <= self.initial_span <= 1:
            raise ValueError(f"initial_span={self.initial_span}; a share of max_span, 0 to 1, is allowed")
        if self.span_loss < 0:
            raise ValueError(f"span_loss={self.span_loss}; 0 or more is allowed")

    def setup(self):
        self.query = to_heads(self.n_heads, self.head_dim, dtype=self.dtype)
        self.key = to_heads(self.n_heads, self.head_dim, dtype=self.dtype)
        self.value = to_heads(self.n_heads, self.head_dim, dtype=self.dtype)
        self.out = from_heads(self.d_model, dtype=self.dtype)
        if self.dynamic:  # starts with small spans, of 1.8 % of max_span
            self.span = nn.Dense(self.n_heads, bias_init=nn.initializers.constant(-4.0))
        else:
            self.share = self.param("share", nn.initializers.constant(self.initial_span), (self.n_heads,))

    def shared_params(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """The embeddings of distances, row x - 1 for distance x: one table for all heads, and for all layers."""
        return {"rel_embedding": ((self.max_span, self.head_dim), nn.initializers.normal(1.0))}

    @nn.compact  # for the parameters that a model may hand in
    def mix(
        self,
        x,
        state=None,
        replay=None,
        *,
        positions=None,
        padding_mask=None,
        segment_ids=None,
        deterministic=True,
        shared=None,
    ):
        if self.zero_cache and segment_ids is not None:
            raise ValueError("segment_ids with zero_cache=True: no document owns the zero inputs; zero_cache=False can")
        shared = shared or {name: self.param(name, init, shape) for name, (shape, init) in self.shared_params().items()}
        x = neutralise(x, padding_mask)
        q, span = self.query(x), self.spans(x)
        if state is None:
            k, v = self.key(x), self.value(x)
            rules = dict(padding_mask=padding_mask, segment_ids=segment_ids, zero_cache=self.zero_cache)
        else:
            segments = stream_segments(x, padding_mask, segment_ids)
            k, v, key_segments, state = self.extend(x, segments, state)
            rules = dict(segment_ids=jnp.maximum(segments, 0), key_segment_ids=key_segments)
        y = adaptive_span_attention(
            q,
            k,
            v,
            span=span,
            ramp=self.ramp,
            max_span=self.max_span,
            rel_embedding=shared["rel_embedding"],
            visited=self.visited,
            implementation=self.implementation,
            **rules,
            **self.attention_dropout(deterministic),
        )
        if self.visited not in (None, self.max_span):
            reach = span + self.ramp < self.visited
            y = jnp.where(reach[..., None], y, jnp.nan)
        return neutralise(self.out(y), padding_mask), state, ()

    def spans(self, x):
        """z, in tokens: [N], or [B, T, N] where it is computed from the input."""
        if self.dynamic:
            return self.max_span * jax.nn.sigmoid(self.span(x).astype(jnp.float32))
        return self.max_span * self.share

    def penalty(self, params) -> jax.Array:
        """`lambda S mean(c)` over the heads."""
        return self.span_loss * self.max_span * jnp.mean(params["share"])

    def after_update(self, params, *, step, key):
        """The shares, back in [0, 1]."""
        return params | {"share": jnp.clip(params["share"], 0.0, 1.0)}

    def fits(self, params) -> jax.Array:
        """Whether no window of these parameters reaches beyond `visited`."""
        return jnp.all(self.max_span * params["share"] + self.ramp < self.visited)

    def adapt(self, params, *, frozen: bool = False) -> dict[str, Any]:
        """The attributes to change so that no more is computed than the widest window of these parameters needs.

        That window, rounded up to blocks of 64, as in the original; while training with a quarter of it on top, so that
        spans can grow for a while, and no change as long as it stays between nothing and a half.

        Args:
          params: of the layer, or of all layers of a stack along the first axis; concrete.
          frozen: see the attribute.
        """
        if self.dynamic:  # any input may ask for any span
            return {"frozen": True} if frozen else {}
        widest = self.max_span * float(np.max(params["share"])) + self.ramp
        needed = math.floor(widest * (1 + 1e-6)) + 1  # however float32 rounds it
        beyond = max(self.max_span - needed, 0)
        enough = self.max_span - beyond // BLOCK * BLOCK
        if frozen:
            return {"visited": enough, "frozen": True}
        margin = max(enough // 4 // BLOCK, 1) * BLOCK
        visited, now = min(enough + margin, self.max_span), self.visited or self.max_span
        return {} if now == visited or enough < now <= enough + 2 * margin else {"visited": visited}

    def extend(self, x, segments, state: RecentInputs):
        """Keys, values and segments of what these queries may see, the tokens themselves last; and the new state."""
        kept = state.segment_ids.shape[1]
        recent = max(kept - (self.visited or self.max_span), 0)  # what lies further back is kept for wider spans
        new = (self.key(x), self.value(x)) if self.frozen else (x,)
        rows = [jnp.concatenate([old.astype(row.dtype), row], axis=1) for old, row in zip(state.rows, new)]
        key_segments = jnp.concatenate([state.segment_ids, segments], axis=1)
        seen = [row[:, recent:] for row in rows]
        k, v = seen if self.frozen else (self.key(seen[0]), self.value(seen[0]))
        latest = lambda row, old: row[:, row.shape[1] - kept :].astype(old.dtype)
        state = RecentInputs(
            rows=tuple(map(latest, rows, state.rows)),
            segment_ids=latest(key_segments, state.segment_ids),
            index=state.index + x.shape[1],
        )
        return k, v, key_segments[:, recent:], state

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> RecentInputs:
        if self.frozen:
            kept, width, arrays = self.visited or self.max_span, (self.n_heads, self.head_dim), 2
        else:
            kept, width, arrays = self.max_span, (self.d_model,), 1
        row = jnp.zeros((batch_size, kept, *width), dtype)
        empty = jnp.full((batch_size, kept), 0 if self.zero_cache else -1, jnp.int32)
        return RecentInputs(rows=(row,) * arrays, segment_ids=empty, index=jnp.zeros((), jnp.int32))
