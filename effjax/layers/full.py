"""Exact attention: the baseline that every other family is measured against."""

from typing import Any

import jax.numpy as jnp

from effjax.layers.cache import KeyValueCache, nan_past_the_end
from effjax.layers.mixer import neutralise, stream_segments
from effjax.layers.projections import SeparateHeads
from effjax.ops.full import full_attention
from effjax.ops.patterns import Causal, Everything
from effjax.ops.positions import alibi
from effjax.ops.sparse import sparse_attention


class FullAttention(SeparateHeads):
    """Multi-head attention, `softmax(Q K^T / sqrt(H)) V` per head, in memory linear in length.

    Attributes:
      alibi: logits fall with the distance, `effjax.ops.positions.alibi`.
      and those of `SeparateHeads`; implementations are those of `effjax.ops.full.full_attention`, with `alibi` those of
      `effjax.ops.sparse.sparse_attention`.

    Source: Vaswani et al. 2017 (1706.03762), section 3.2; memory: Rabe & Staats 2021 (2112.05682).
    """

    alibi: bool = False

    def mix(
        self, x, state=None, replay=None, *, positions=None, padding_mask=None, segment_ids=None, deterministic=True
    ):
        x = neutralise(x, padding_mask)
        q, k, v = self.project(x, positions, state)
        dropout = self.attention_dropout(deterministic)
        if state is None:
            y = self.attend(q, k, v, padding_mask=padding_mask, segment_ids=segment_ids, **dropout)
        else:
            segments = stream_segments(x, padding_mask, segment_ids)
            offset = state.index
            state = state.append(k, v, segments)
            y = self.attend(
                q,
                state.key.astype(q.dtype),
                state.value.astype(q.dtype),
                segment_ids=jnp.maximum(segments, 0),
                key_segment_ids=state.segment_ids,
                query_offset=offset,
                **dropout,
            )
            y = nan_past_the_end(y, state.index, state.key.shape[1])
        return neutralise(self.out(y), padding_mask), state, ()

    def attend(self, q, k, v, **kwargs):
        if self.alibi:
            options = dict(pattern=Causal() if self.causal else Everything(), bias=alibi(self.n_heads))
            return sparse_attention(q, k, v, implementation=self.implementation, **options, **kwargs)
        return full_attention(q, k, v, causal=self.causal, implementation=self.implementation, **kwargs)

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> KeyValueCache:
        if not self.causal:
            raise ValueError("causal=False cannot stream: a token's output needs tokens that are still to come")
        return KeyValueCache.empty((batch_size, max_length, self.kv_heads, self.head_dim), dtype)
