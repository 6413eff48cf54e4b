"""Sliding windows with attention sinks: a position sees the latest ones and the first ones."""

from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp

from effjax.layers.mixer import at_least_one
from effjax.layers.sparse import PatternAttention
from effjax.ops import patterns
from effjax.ops.positions import alibi

PIECE = 512  # tokens of a long piece that are mixed at once


@flax.struct.dataclass
class SinksAndWindow:
    """The first tokens, and the `window` - 1 latest in order of time: O(window + sinks), however long the stream."""

    key: jax.Array  # [B, sinks + window - 1, K, H]
    value: jax.Array
    segment_ids: jax.Array  # [B, sinks + window - 1], -1 where empty, padded, or a sink seen twice
    index: jax.Array  # tokens seen so far


class WindowAttention(PatternAttention):
    """A position sees the last `window` positions, itself included, and the first `sinks`.

    Without `causal` it sees as far ahead. Sinks keep their own positions (StreamingLLM renumbers what is in its cache),
    so that a stream gives what one pass gives.

    Attributes:
      window: in tokens.
      sinks: first tokens that all see.
      alibi: logits fall with the distance, `effjax.ops.positions.alibi`.
      and those of `SeparateHeads`.

    Source: Beltagy et al. 2020 (2004.05150), section 3.1; sinks: Xiao et al. 2023 (2309.17453).
    """

    bounded_state: ClassVar[bool] = True
    per_block: ClassVar[tuple[str, ...]] = ("window",)

    window: int = 512
    sinks: int = 0
    alibi: bool = False

    def __post_init__(self):
        super().__post_init__()
        at_least_one(window=self.window)

    @property
    def pattern(self):
        if self.causal:
            return patterns.streaming(self.window, self.sinks)
        near = patterns.SlidingWindow(self.window - 1)
        return near | patterns.Sinks(self.sinks) if self.sinks else near

    def attend(self, q, k, v, **kwargs):
        return super().attend(q, k, v, bias=alibi(self.n_heads) if self.alibi else None, **kwargs)

    def stream(self, q, k, v, segments, state: SinksAndWindow, dropout):
        """The next tokens, at most `PIECE` at a time, against what is kept and each other."""
        length, piece = q.shape[1], min(max(self.window, 32), PIECE)
        whole, outputs = length // piece, []

        def step(state, new, turn):
            options = dict(dropout)
            if options:
                options["dropout_key"] = jax.random.fold_in(options["dropout_key"], turn)
            y, state = self.one_piece(*new, state, options)
            return state, y

        if length > piece:
            cut = lambda x: x[:, : whole * piece].reshape(x.shape[0], whole, piece, *x.shape[2:]).swapaxes(0, 1)
            pieces = tuple(cut(x) for x in (q, k, v, segments))
            state, y = jax.lax.scan(lambda s, x: step(s, x[1:], x[0]), state, (jnp.arange(whole), *pieces))
            outputs.append(y.swapaxes(0, 1).reshape(q.shape[0], whole * piece, *q.shape[2:]))
            rest = slice(whole * piece, None)
            q, k, v, segments = (x[:, rest] for x in (q, k, v, segments))
        if q.shape[1]:
            state, y = step(state, (q, k, v, segments), whole)
            outputs.append(y)
        return jnp.concatenate(outputs, axis=1), state

    def one_piece(self, q, k, v, segments, state: SinksAndWindow, dropout):
        past, recent, length = self.window - 1, state.index - (self.window - 1), q.shape[1]
        positions = jnp.concatenate([jnp.arange(self.sinks), recent + jnp.arange(past + length)])
        keys, values, key_segments = (
            jnp.concatenate([old, new.astype(old.dtype)], axis=1)
            for old, new in ((state.key, k), (state.value, v), (state.segment_ids, segments))
        )
        y = self.attend(
            q,
            keys.astype(q.dtype),
            values.astype(q.dtype),
            segment_ids=jnp.maximum(segments, 0),
            key_segment_ids=key_segments,
            query_offset=state.index,
            key_positions=jnp.broadcast_to(positions, key_segments.shape),
            **dropout,
        )
        # A sink that is among the new tokens goes to its own place; what is left of it in the window counts no more.
        arrived = jnp.arange(self.sinks) - state.index
        sink_slots = jnp.where(
            (arrived >= 0) & (arrived < length),
            self.sinks + past + jnp.clip(arrived, 0, length - 1),
            jnp.arange(self.sinks),
        )
        kept = jnp.concatenate([sink_slots, self.sinks + length + jnp.arange(past)])
        index = state.index + length
        twice = jnp.concatenate([jnp.zeros(self.sinks, bool), index - past + jnp.arange(past) < self.sinks])
        keep = lambda x: jnp.take(x, kept, axis=1)
        return y, SinksAndWindow(
            key=keep(keys),
            value=keep(values),
            segment_ids=jnp.where(twice, -1, keep(key_segments)),
            index=index,
        )

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> SinksAndWindow:
        self.check_stream()
        slots = self.sinks + self.window - 1
        heads = jnp.zeros((batch_size, slots, self.kv_heads, self.head_dim), dtype)
        empty = jnp.full((batch_size, slots), -1, jnp.int32)
        return SinksAndWindow(key=heads, value=heads, segment_ids=empty, index=jnp.zeros((), jnp.int32))
