"""Chunked local attention: a position sees its own chunk and the ones before it."""

from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp

from effjax.layers.cache import write
from effjax.layers.mixer import at_least_one, neutralise, stream_segments
from effjax.layers.projections import SeparateHeads
from effjax.ops.full import full_attention
from effjax.ops.local import local_attention


@flax.struct.dataclass
class Window:
    """Keys and values of the current chunk and the `look_back` chunks before it, aligned to chunk boundaries:
    slot 0 is the first position of the oldest chunk in view. O(window), whatever the length of the stream."""

    key: jax.Array  # [B, (look_back + 1) chunk_size, K, H]
    value: jax.Array
    segment_ids: jax.Array  # [B, slots], -1 where empty or padded
    index: jax.Array  # tokens seen so far


class LocalAttention(SeparateHeads):
    """Multi-head attention within chunks: position t sees the chunks `t // c - look_back ... t // c`.

    Attributes:
      chunk_size: c, in tokens.
      look_back: chunks before one's own that are seen.
      look_ahead: chunks after one's own that are seen; 0 where causal.
      and those of `SeparateHeads`; implementations are those of `effjax.ops.local.local_attention`.

    Source: Reformer's local layers, `SelfAttention` in trax (Kitaev et al. 2020, 2001.04451).
    """

    bounded_state: ClassVar[bool] = True

    chunk_size: int = 128
    look_back: int = 1
    look_ahead: int = 0

    def __post_init__(self):
        super().__post_init__()
        at_least_one(chunk_size=self.chunk_size)
        for name in ("look_back", "look_ahead"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}; 0 or more chunks is allowed")
        if self.causal and self.look_ahead:
            raise ValueError(f"look_ahead={self.look_ahead} with causal=True; 0 is allowed")

    def mix(
        self, x, state=None, replay=None, *, positions=None, padding_mask=None, segment_ids=None, deterministic=True
    ):
        x = neutralise(x, padding_mask)
        q, k, v = self.project(x, positions, state)
        if state is None:
            y = self.attend(
                q,
                k,
                v,
                padding_mask=padding_mask,
                segment_ids=segment_ids,
                **self.attention_dropout(deterministic),
            )
        else:
            dropout = self.attention_dropout(deterministic)
            y, state = self.stream(q, k, v, stream_segments(x, padding_mask, segment_ids), state, dropout)
        return neutralise(self.out(y), padding_mask), state, ()

    def attend(self, q, k, v, **kwargs):
        return local_attention(
            q,
            *self.for_each_query_head(k, v),
            chunk_size=self.chunk_size,
            look_back=self.look_back,
            look_ahead=self.look_ahead,
            causal=self.causal,
            implementation=self.implementation,
            **kwargs,
        )

    def stream(self, q, k, v, segments, state: Window, dropout):
        """The next tokens against the window, laid out so that chunk boundaries fall where they fall in one pass."""
        length, chunk, slots = q.shape[1], self.chunk_size, self.slots
        start = self.look_back * chunk + state.index % chunk  # slot of the first new token

        def extend(buffer, new, fill):
            # Room for the new tokens, and for the window to move on to its next chunk behind them.
            room = [(0, 0), (0, length + chunk)] + [(0, 0)] * (buffer.ndim - 2)
            return write(jnp.pad(buffer, room, constant_values=fill), new, start)

        keys, values = extend(state.key, k, 0), extend(state.value, v, 0)
        key_segments = extend(state.segment_ids, segments, -1)
        if length <= chunk:  # few queries: every key in view, masked by chunk
            query_slot, key_slot = start + jnp.arange(length), jnp.arange(keys.shape[1])
            behind = query_slot[:, None] // chunk - key_slot[None, :] // chunk
            y = full_attention(
                q,
                keys.astype(q.dtype),
                values.astype(q.dtype),
                causal=True,
                mask=(behind <= self.look_back)[None, None],
                segment_ids=jnp.maximum(segments, 0),
                key_segment_ids=key_segments,
                query_offset=start,
                implementation=self.implementation,
                **dropout,
            )
        else:  # many: the chunked form over old and new tokens, of which the new ones are kept
            queries = extend(jnp.zeros((q.shape[0], slots, *q.shape[2:]), q.dtype), q, 0)
            y = self.attend(
                queries,
                keys.astype(q.dtype),
                values.astype(q.dtype),
                padding_mask=key_segments >= 0,
                segment_ids=key_segments,
                **dropout,
            )
            y = jax.lax.dynamic_slice_in_dim(y, start, length, axis=1)
        index = state.index + length
        shift = (index // chunk - state.index // chunk) * chunk
        keep = lambda buffer: jax.lax.dynamic_slice_in_dim(buffer, shift, slots, axis=1)
        return y, Window(key=keep(keys), value=keep(values), segment_ids=keep(key_segments), index=index)

    @property
    def slots(self) -> int:
        return (self.look_back + 1) * self.chunk_size

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> Window:
        if not self.causal or self.look_ahead:
            raise ValueError(
                f"causal={self.causal}, look_ahead={self.look_ahead} cannot stream: a token's output needs tokens that "
                "are still to come; streaming takes causal=True, look_ahead=0"
            )
        heads = jnp.zeros((batch_size, self.slots, self.kv_heads, self.head_dim), dtype)
        empty = jnp.full((batch_size, self.slots), -1, jnp.int32)
        return Window(key=heads, value=heads, segment_ids=empty, index=jnp.zeros((), jnp.int32))
