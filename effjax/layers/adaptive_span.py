"""Attention whose heads learn how far back they look."""

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from effjax.layers.mixer import Mixer, neutralise, stream_segments
from effjax.layers.projections import from_heads, to_heads
from effjax.layers.recent import RecentRows
from effjax.ops.adaptive_span import adaptive_span_attention, check_sizes

BLOCK = 64  # the visited context changes by whole blocks


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
    adaptive: ClassVar[tuple[str, ...]] = ("visited", "frozen")

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
            new = (self.key(x), self.value(x)) if self.frozen else (x,)
            rows, key_segments, state = state.extend(new, segments)
            seen = min(self.visited or self.max_span, state.segment_ids.shape[1]) + x.shape[1]
            rows = [row[:, -seen:] for row in rows]  # what lies further back is kept for wider spans
            k, v = rows if self.frozen else (self.key(rows[0]), self.value(rows[0]))
            rules = dict(segment_ids=jnp.maximum(segments, 0), key_segment_ids=key_segments[:, -seen:])
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
            y = jnp.where((span + self.ramp < self.visited)[..., None], y, jnp.nan)
        if self.penalises_activations and not self.is_initializing():
            self.sow("penalties", "mean_span", self.span_loss * mean_of_tokens(span, padding_mask))
        return neutralise(self.out(y), padding_mask), state, ()

    def spans(self, x):
        """z, in tokens: [N], or [B, T, N] where it is computed from the input."""
        if self.dynamic:
            return self.max_span * jax.nn.sigmoid(self.span(x).astype(jnp.float32))
        return self.max_span * self.share

    def after_update(self, params, *, step, key):
        """The shares, back in [0, 1]."""
        return params if self.dynamic else params | {"share": jnp.clip(params["share"], 0.0, 1.0)}

    def penalty(self, params) -> jax.Array:
        """`lambda S mean(c)` over the heads; a span that is computed from the input adds its own in `mix`."""
        return jnp.zeros(()) if self.dynamic else self.span_loss * self.max_span * jnp.mean(params["share"])

    @property
    def penalises_activations(self) -> bool:
        return self.dynamic and self.span_loss > 0

    def metrics(self, params) -> dict[str, jax.Array]:
        """Spans, in tokens."""
        if self.dynamic:
            return {}
        spans = self.max_span * params["share"]
        return {"mean_span": jnp.mean(spans), "max_span": jnp.max(spans)}

    def fits(self, params) -> jax.Array:
        """Whether no window of these parameters reaches beyond `visited`."""
        if self.dynamic or self.visited in (None, self.max_span):
            return jnp.asarray(True)
        return jnp.all(self.max_span * params["share"] + self.ramp < self.visited)

    def adapt(self, params, *, frozen: bool = False) -> dict[str, Any]:
        """What is visited: the widest window of these parameters, rounded up to blocks of 64 as in the original.

        While training a quarter of that comes on top, so that spans can grow for a while, and nothing changes as long
        as there is some room and less than twice as much. Spans that are computed from the input may always be the
        greatest.
        """
        frozen = frozen or self.frozen
        changes = {"frozen": frozen}
        if not self.dynamic:
            widest = self.max_span * float(np.max(params["share"])) + self.ramp
            needed = math.floor(widest * (1 + 1e-6)) + 1  # however float32 rounds it
            enough = self.max_span - max(self.max_span - needed, 0) // BLOCK * BLOCK
            margin = max(enough // 4 // BLOCK, 1) * BLOCK
            now, roomy = self.visited or self.max_span, min(enough + margin, self.max_span)
            if frozen:
                changes["visited"] = enough
            elif now != roomy and not enough < now <= enough + 2 * margin:
                changes["visited"] = roomy
        return {name: value for name, value in changes.items() if value != getattr(self, name)}

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> RecentRows:
        width = (self.n_heads, self.head_dim)
        widths = (width, width) if self.frozen else ((self.d_model,),)
        slots = (self.frozen and self.visited) or self.max_span
        return RecentRows.empty(batch_size, slots, widths, dtype, segment=0 if self.zero_cache else -1)


def mean_of_tokens(span, padding_mask):
    """The mean of `[B, T, N]` over heads and over the tokens that are there."""
    if padding_mask is None:
        return jnp.mean(span)
    there = jnp.broadcast_to(padding_mask[..., None], span.shape)
    return jnp.sum(jnp.where(there, span, 0)) / jnp.maximum(jnp.sum(there), 1)
