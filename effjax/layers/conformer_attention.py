"""Conformer's self-attention: by content and distance towards both sides, or chunk by chunk of a stream."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from effjax.layers.mixer import Mixer, neutralise, stream_segments, token_positions
from effjax.layers.projections import from_heads, to_heads
from effjax.layers.recent import RecentRows
from effjax.ops.full import full_attention
from effjax.ops.positions import rotary, sinusoidal_positions
from effjax.ops.relative import relative_attention

POSITIONS = ("relative", "rotary")


class ConformerAttention(Mixer):
    """Multi-head attention to every position, told apart by their signed distance.

        a_ij = softmax_j(((q_i + u) . k_j + (q_i + w) . r_{i-j}) / sqrt(H)),   r_d = W_r [sin(d f) ; cos(d f)]

    With a `chunk_size` C a position sees its own chunk, to the end, and `left_chunks` chunks before it: such a layer
    streams, a chunk or several at a time, and its delay is one chunk, whatever the number of layers.

    Attributes:
      position_encoding: "relative" as above; "rotary" instead turns the inputs of queries and keys, heads split, by
        their positions before they are projected (as Wav2Vec2-Conformer does), and has neither u, w nor W_r.
      chunk_size: C, frames; 0: the whole utterance.
      left_chunks: chunks before its own that a position sees.
      use_bias: of the projections of queries, keys, values and outputs.
      implementation: of `effjax.ops.relative.relative_attention`, or of `full_attention` for rotary positions.

    Source: Gulati et al. 2020 (2005.08100), section 2.1; Dai et al. 2019 (1901.02860), section 3.3; chunks: Chen et al.
      2021 (2010.11395), section 3.2; Su et al. 2021 (2104.09864) for rotary positions.
    """

    position_encoding: str = "relative"
    chunk_size: int = 0
    left_chunks: int = 4
    use_bias: bool = True
    implementation: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.position_encoding not in POSITIONS:
            raise ValueError(f"position_encoding={self.position_encoding!r}; {' or '.join(POSITIONS)} is allowed")
        if self.chunk_size < 0 or self.left_chunks < 0:
            raise ValueError(f"chunk_size={self.chunk_size}, left_chunks={self.left_chunks}; 0 or more is allowed")
        if self.chunk_size and self.position_encoding != "relative":
            raise ValueError(f"chunk_size={self.chunk_size} needs position_encoding='relative'")
        if self.position_encoding == "relative" and self.d_model % 2:
            raise ValueError(f"d_model={self.d_model}; sinusoids of distances need an even number")

    def setup(self):
        options = dict(use_bias=self.use_bias, dtype=self.dtype)
        self.query, self.key, self.value = (to_heads(self.n_heads, self.head_dim, **options) for _ in range(3))
        self.out = from_heads(self.d_model, **options)
        if self.position_encoding == "relative":
            self.distance = to_heads(self.n_heads, self.head_dim, dtype=self.dtype)
            shape = (self.n_heads, self.head_dim)
            self.content_bias = self.param("content_bias", nn.initializers.zeros, shape)
            self.position_bias = self.param("position_bias", nn.initializers.zeros, shape)

    def mix(
        self, x, state=None, replay=None, *, positions=None, padding_mask=None, segment_ids=None, deterministic=True
    ):
        if state is not None and not self.chunk_size:
            raise ValueError("state is given with chunk_size=0: outputs need frames that are still to come")
        x = neutralise(x, padding_mask)
        dropout = self.attention_dropout(deterministic)
        if self.position_encoding == "rotary":
            turned = x.reshape(*x.shape[:2], self.n_heads, -1)
            turned = rotary(turned, token_positions(x, positions, None)).reshape(x.shape)
            rules = dict(padding_mask=padding_mask, segment_ids=segment_ids, implementation=self.implementation)
            y = full_attention(self.query(turned), self.key(turned), self.value(x), causal=False, **rules, **dropout)
        elif self.chunk_size:
            y, state = self.attend_chunks(x, state, stream_segments(x, padding_mask, segment_ids), dropout)
        else:
            farthest = x.shape[1] - 1
            rules = dict(padding_mask=padding_mask, segment_ids=segment_ids, min_distance=None)
            y = self.attend(x, self.key(x), self.value(x), (-farthest, farthest), **rules, **dropout)
        return neutralise(self.out(y), padding_mask), state, ()

    def attend(self, x, k, v, distances, **rules):
        """The attention of `x` to keys among these distances, first and last."""
        first, last = distances
        rel = sinusoidal_positions(jnp.arange(first, last + 1), self.d_model).astype(self.dtype)
        biases = dict(content_bias=self.content_bias, position_bias=self.position_bias)
        q = self.query(x)
        if (groups := k.shape[0] // q.shape[0]) > 1:  # chunks
            q = q.reshape(-1, q.shape[1] // groups, *q.shape[2:])
        place = dict(rel=self.distance(rel), rel_start=first, implementation=self.implementation)
        return relative_attention(q, k, v, **place, **biases, **rules)[0]

    def attend_chunks(self, x, state, segments, dropout):
        """Every chunk with those before it as one row of a batch; the state goes on."""
        (batch, length, _), chunk, before = x.shape, self.chunk_size, self.left_chunks * self.chunk_size
        if state is not None and length % chunk:
            raise ValueError(f"x has {length} frames; pieces of a stream are multiples of chunk_size={chunk}")
        past = self.initial_state(batch, x.dtype, max_length=length) if state is None else state
        (k, v), key_segments, after = past.extend((self.key(x), self.value(x)), segments)
        margin = -length % chunk
        fill = lambda array, value=0: jnp.pad(
            array, ((0, 0), (0, margin)) + ((0, 0),) * (array.ndim - 2), constant_values=value
        )
        count = (length + margin) // chunk
        near = jnp.arange(count)[:, None] * chunk + jnp.arange(before + chunk)
        k, v, key_segments = (
            fill(array, value)[:, near].reshape(batch * count, before + chunk, *array.shape[2:])
            for array, value in ((k, 0), (v, 0), (key_segments, -1))
        )
        rules = dict(
            segment_ids=jnp.maximum(fill(segments), 0).reshape(batch * count, chunk),
            key_segment_ids=key_segments,
            query_offset=before,
            min_distance=None,
        )
        y = self.attend(fill(x), k, v, (1 - chunk, before + chunk - 1), **rules, **dropout)
        y = y.reshape(batch, count * chunk, self.n_heads, self.head_dim)[:, :length]
        return y, None if state is None else after

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> RecentRows:
        """State before the first frame: the keys and values of the chunks on the left, whatever the length."""
        if not self.chunk_size:
            raise ValueError("chunk_size=0 cannot stream: outputs need frames that are still to come")
        width = (self.n_heads, self.head_dim)
        return RecentRows.empty(batch_size, self.left_chunks * self.chunk_size, (width, width), dtype)
