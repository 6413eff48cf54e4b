"""Attention over a segment and a memory of what came before it, by content and distance (Transformer-XL)."""

from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from effjax.layers.mixer import Mixer, at_least_one, neutralise, probability, stream_segments
from effjax.layers.projections import from_heads, to_heads
from effjax.layers.recent import RecentRows
from effjax.ops.positions import sinusoidal_positions
from effjax.ops.relative import relative_attention


@flax.struct.dataclass
class Memory(RecentRows):
    """The last inputs of the layer, from which keys and values are projected anew, so that they train the projections;
    or, of a `frozen` layer, those keys and values, and what it has projected of distances."""

    distances: jax.Array | None = None  # [W, N, H], of a frozen layer after its first piece


class TransformerXLAttention(Mixer):
    """Multi-head attention to the tokens before a position, those in memory included, told apart by their distance.

        h~ = [SG(memory) ; x],   q = x W_q,   k = h~ W_k,   v = h~ W_v,   r_d = W_r [sin(d f) ; cos(d f)]
        a_ij = softmax_j(((q_i + u) . k_j + (q_i + w) . r_{i-j}) / sqrt(H)),   y = (a v) W_o

    The state is the memory: the layer's inputs, `memory_length` of them, through which no gradient flows. A position
    sees all of the memory as it was before its piece, so its context is longer in a later place of the piece; with
    `same_length` every position sees `memory_length` tokens, itself included, and pieces do not matter.

    Attributes:
      memory_length: M, tokens.
      same_length: a position sees the last M tokens, itself included; else the whole memory and its piece.
      clamp_length: tokens further back are taken to be this far back; None: distances as they are.
      untie_biases: u and w for each layer, not for all layers together.
      position_dropout_rate: on the sinusoids of distances.
      frozen: the parameters are not going to change: the state keeps keys and values instead of inputs, so that nothing
        is projected twice.
      zero_memory: the empty memory is zeros that are attended, as in the original, instead of nothing. Documents cannot
        be kept apart with it.
      implementation: see `effjax.ops.relative.relative_attention`.

    Source: Dai et al. 2019 (1901.02860), section 3; its code, kimiyoung/transformer-xl, for clamp_length, same_length
      and zero_memory.
    """

    bounded_state: ClassVar[bool] = True
    adaptive: ClassVar[tuple[str, ...]] = ("frozen",)

    memory_length: int = 512
    same_length: bool = False
    clamp_length: int | None = None
    untie_biases: bool = False
    position_dropout_rate: float = 0.0
    frozen: bool = False
    zero_memory: bool = False
    implementation: str | None = None

    def __post_init__(self):
        super().__post_init__()
        at_least_one(memory_length=self.memory_length)
        probability(position_dropout_rate=self.position_dropout_rate)
        if self.clamp_length is not None and self.clamp_length < 0:
            raise ValueError(f"clamp_length={self.clamp_length}; 0 or more tokens, or None for no clamp, is allowed")
        if self.d_model % 2:
            raise ValueError(f"d_model={self.d_model}; sinusoids of distances need an even number")

    def setup(self):
        self.query = to_heads(self.n_heads, self.head_dim, dtype=self.dtype)
        self.key = to_heads(self.n_heads, self.head_dim, dtype=self.dtype)
        self.value = to_heads(self.n_heads, self.head_dim, dtype=self.dtype)
        self.distance = to_heads(self.n_heads, self.head_dim, dtype=self.dtype)
        self.out = from_heads(self.d_model, dtype=self.dtype)
        self.position_dropout = nn.Dropout(self.position_dropout_rate)

    def shared_params(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """u and w, one pair for all layers unless they are untied."""
        return {} if self.untie_biases else self._biases()

    def _biases(self):
        biased = ((self.n_heads, self.head_dim), nn.initializers.normal(0.02))
        return {"content_bias": biased, "position_bias": biased}

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
        if self.zero_memory and segment_ids is not None:
            raise ValueError(
                "segment_ids with zero_memory=True: no document owns the zero inputs; zero_memory=False can"
            )
        biases = shared or {name: self.param(name, init, shape) for name, (shape, init) in self._biases().items()}
        x = neutralise(x, padding_mask)
        segments = stream_segments(x, padding_mask, segment_ids)
        q, given = self.query(x), state
        if state is None and self.zero_memory:
            state = self.initial_state(x.shape[0], x.dtype, max_length=x.shape[1])
        if state is None:
            k, v, key_segments = self.key(x), self.value(x), segments
        elif self.frozen:
            (k, v), key_segments, state = state.extend((self.key(x), self.value(x)), segments)
        else:
            (inputs,), key_segments, state = state.extend((x,), segments)
            k, v = self.key(inputs), self.value(inputs)
        rel = self.distances(k.shape[1], state, deterministic)
        if self.frozen and state is not None:
            state = state.replace(distances=rel)
        bare = state is None and padding_mask is None and segment_ids is None
        rules = {} if bare else dict(segment_ids=jnp.maximum(segments, 0), key_segment_ids=key_segments)
        y, _ = relative_attention(
            q,
            k,
            v,
            rel=rel,
            **biases,
            window=self.memory_length - 1 if self.same_length else None,
            implementation=self.implementation,
            **rules,
            **self.attention_dropout(deterministic),
        )
        return neutralise(self.out(y), padding_mask), None if given is None else state, ()

    def distances(self, n_keys: int, state: Memory | None, deterministic: bool):
        """Projected sinusoids [W, N, H] of the distances 0 … W - 1 that so many keys make; all beyond are one."""
        farthest = n_keys - 1
        if self.same_length:
            farthest = min(farthest, self.memory_length - 1)
        if self.clamp_length is not None:
            farthest = min(farthest, self.clamp_length)
        if state is not None and state.distances is not None and state.distances.shape[0] > farthest:
            return state.distances
        sinusoids = sinusoidal_positions(jnp.arange(farthest + 1), self.d_model).astype(self.dtype)
        return self.distance(self.position_dropout(sinusoids, deterministic=deterministic))

    def adapt(self, params, *, frozen: bool = False) -> dict[str, Any]:
        """The attributes to change for parameters that are not going to change."""
        del params
        return {"frozen": True} if frozen else {}

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> Memory:
        width = (self.n_heads, self.head_dim)
        widths = (width, width) if self.frozen else ((self.d_model,),)
        segment = 0 if self.zero_memory else -1
        return Memory.empty(batch_size, self.memory_length, widths, dtype, segment=segment)
