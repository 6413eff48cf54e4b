"""Attention under static patterns: Sparse Transformer, LogSparse, BigBird."""

from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp

from effjax.layers.cache import KeyValueCache, nan_past_the_end, write
from effjax.layers.mixer import at_least_one, neutralise, stream_segments
from effjax.layers.projections import ConvolvedHeads, SeparateHeads, from_heads, to_heads
from effjax.ops import patterns
from effjax.ops.big_bird import big_bird_attention
from effjax.ops.convolution import Tail, empty_tail
from effjax.ops.sparse import sparse_attention

FEW_QUERIES = 128  # a shorter piece of a stream looks at every key of the cache


class PatternAttention(SeparateHeads):
    """Multi-head attention in which a rule about positions says who sees whom.

    A subclass says which `pattern`. Streams keep all past keys and values: any of them may be seen again.

    Attributes: those of `SeparateHeads`; implementations are those of `effjax.ops.sparse.sparse_attention`.
    """

    def __post_init__(self):
        super().__post_init__()
        self.pattern  # noqa: B018 - settings that make no sense are found out now

    @property
    def pattern(self) -> patterns.Pattern:
        """Who sees whom."""
        raise NotImplementedError

    def mix(
        self, x, state=None, replay=None, *, positions=None, padding_mask=None, segment_ids=None, deterministic=True
    ):
        x, dropout = neutralise(x, padding_mask), self.attention_dropout(deterministic)
        rules = dict(padding_mask=padding_mask, segment_ids=segment_ids)
        (q, k, v), kept = self.heads(x, positions, state, **rules)
        if state is None:
            y = self.attend(q, k, v, **rules, **dropout)
        else:
            y, state = self.stream(q, k, v, stream_segments(x, **rules), state, dropout, **kept)
        return neutralise(self.out(y), padding_mask), state, ()

    def heads(self, x, positions, state, **rules):
        """Queries, keys and values, and what else the state has to keep."""
        return self.project(x, positions, state), {}

    def attend(self, q, k, v, **kwargs):
        return sparse_attention(q, k, v, pattern=self.pattern, implementation=self.implementation, **kwargs)

    def stream(self, q, k, v, segments, state: KeyValueCache, dropout, **kept):
        """The next tokens against the cache."""
        offset, length = state.index, q.shape[1]
        state = state.append(k, v, segments, **kept)
        keys, values, slots = state.key.astype(q.dtype), state.value.astype(q.dtype), state.key.shape[1]
        if length <= FEW_QUERIES:
            y = self.attend(
                q,
                keys,
                values,
                segment_ids=jnp.maximum(segments, 0),
                key_segment_ids=state.segment_ids,
                query_offset=offset,
                **dropout,
            )
        else:  # a pass over the whole cache, of which the new tokens are kept
            queries = write(jnp.zeros((q.shape[0], slots, *q.shape[2:]), q.dtype), q, offset)
            padding = state.segment_ids >= 0
            y = self.attend(queries, keys, values, padding_mask=padding, segment_ids=state.segment_ids, **dropout)
            y = jax.lax.dynamic_slice_in_dim(y, offset, length, axis=1)
        return nan_past_the_end(y, state.index, slots), state

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> KeyValueCache:
        self.check_stream()
        return KeyValueCache.empty((batch_size, max_length, self.kv_heads, self.head_dim), dtype)

    def check_stream(self):
        if not self.causal:
            raise ValueError("causal=False cannot stream: a token's output needs tokens that are still to come")


class CausalPattern(PatternAttention):
    """A pattern that exists towards the past only."""

    def __post_init__(self):
        super().__post_init__()
        if not self.causal:
            raise ValueError("causal=False; this pattern looks back only, True is allowed")


class NarrowKeys(PatternAttention):
    """A pattern whose queries and keys may be narrower than its values.

    Attributes:
      qk_head_dim: width of the heads of queries and keys, by whose root logits are divided; 0: head_dim, the most.
      and those of `SeparateHeads`.

    Source: Child et al. 2019 (1904.10509), section 7.1: half-size queries and keys for CIFAR-10.
    """

    qk_head_dim: int = 0

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.qk_head_dim <= self.head_dim:
            raise ValueError(
                f"qk_head_dim={self.qk_head_dim}; 1 to head_dim={self.head_dim}, or 0 for head_dim, is allowed"
            )

    @property
    def key_width(self) -> int:
        return self.qk_head_dim or self.head_dim

    def attend(self, q, k, v, **kwargs):
        if self.qk_head_dim:  # the op knows one width: zeros add nothing to a logit
            wider = [(0, 0)] * 3 + [(0, self.head_dim - self.key_width)]
            q, k, kwargs["scale"] = jnp.pad(q, wider), jnp.pad(k, wider), self.key_width**-0.5
        return super().attend(q, k, v, **kwargs)

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> KeyValueCache:
        cache = super().initial_state(batch_size, dtype, max_length=max_length)
        return cache.replace(key=cache.key[..., : self.key_width])


class StridedAttention(NarrowKeys, CausalPattern):
    """A position sees the last `stride` positions and every `stride`-th one before: cost n (stride + n / stride).

    Attributes:
      stride: in tokens, near the square root of the length.
      form: "merged", "split", "local" or "far", see `effjax.ops.patterns.Strided`; layers that take turns have one form
        per block of the period.
      inclusive: the last positions reach `stride` back, as the paper writes it; False: `stride` - 1, as in the authors'
        code. The merged form is the same.
      and those of `NarrowKeys`.

    Source: Child et al. 2019 (1904.10509), section 4.3; its code, openai/sparse_attention.
    """

    per_block: ClassVar[tuple[str, ...]] = ("form",)

    stride: int = 128
    form: str = "merged"
    inclusive: bool = True

    @property
    def pattern(self):
        return patterns.Strided(self.stride, form=self.form, inclusive=self.inclusive)


class FixedAttention(NarrowKeys):
    """A position sees its own block and the last `summary` cells of those before: cost n (block + summary n / block).

    Without `causal` it sees the whole of its block and the summaries of all.

    Attributes:
      block: in tokens, near the square root of the length.
      summary: cells of every block that later blocks see, c.
      groups: heads in so many groups see different cells.
      form: as in `StridedAttention`.
      global_tokens: without `causal`, the first so many tokens see all and are seen by all.
      and those of `NarrowKeys`.

    Source: Child et al. 2019 (1904.10509), section 4.3.
    """

    per_block: ClassVar[tuple[str, ...]] = ("form",)

    block: int = 128
    summary: int = 32
    groups: int = 1
    form: str = "merged"
    global_tokens: int = 0

    @property
    def pattern(self):
        if self.global_tokens < 0 or (self.causal and self.global_tokens):
            raise ValueError(
                f"global_tokens={self.global_tokens} with causal={self.causal}; 0 is allowed, or more with causal=False"
            )
        fixed = patterns.Fixed(self.block, self.summary, groups=self.groups, form=self.form, causal=self.causal)
        return fixed | patterns.GlobalTokens(self.global_tokens) if self.global_tokens else fixed


@flax.struct.dataclass
class ConvolvedCache(KeyValueCache):
    """A key/value cache, and the inputs that the convolutions of the next token still see."""

    tail: Tail


class LogSparseAttention(CausalPattern):
    """A position sees those at distances 0, 1, 2, 4, 8, ..., with queries and keys that know their neighbourhood.

    q_t = sum_j Wq_j x_{t-j} + b, j < qk_kernel, keys alike; values are those of each position alone.

    Attributes:
      local: latest positions that are all seen; the distances of the others count from there.
      restart: the pattern begins again every so many positions back; 0: never.
      qk_kernel: taps k of the causal convolution that makes queries and keys; 1 is a linear projection without bias.
      and those of `SeparateHeads`.

    Source: Li et al. 2019 (1907.00235), section 4.
    """

    local: int = 1
    restart: int = 0
    qk_kernel: int = 1

    def __post_init__(self):
        super().__post_init__()
        at_least_one(qk_kernel=self.qk_kernel)

    @property
    def pattern(self):
        return patterns.LogSparse(local=self.local, restart=self.restart or None)

    def setup(self):
        if self.qk_kernel == 1:
            return super().setup()
        convolved = dict(head_dim=self.head_dim, kernel_size=self.qk_kernel, dtype=self.dtype)
        self.query, self.key = (ConvolvedHeads(heads, **convolved) for heads in (self.n_heads, self.kv_heads))
        self.value = to_heads(self.kv_heads, self.head_dim, use_bias=self.use_bias, dtype=self.dtype)
        self.out = from_heads(self.d_model, use_bias=self.use_bias, dtype=self.dtype)

    def heads(self, x, positions, state, **rules):
        if self.qk_kernel == 1:
            return super().heads(x, positions, state)
        tail = None if state is None else state.tail
        (q, tail), (k, _) = self.query(x, tail, **rules), self.key(x, tail, **rules)
        return (*self.rotate(q, k, positions, state), self.value(x)), {} if state is None else {"tail": tail}

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int):
        cache = super().initial_state(batch_size, dtype, max_length=max_length)
        if self.qk_kernel == 1:
            return cache
        tail = empty_tail(batch_size, self.qk_kernel, self.d_model, dtype)
        return ConvolvedCache(cache.key, cache.value, cache.segment_ids, cache.index, tail)


class BigBirdAttention(PatternAttention):
    """A position sees the blocks around it, the first blocks, and random blocks; the first see all. Cost linear.

    Towards both sides the last block of each example is global as well. A causal one draws its random blocks from the
    past, and no query sees more than that.

    Attributes:
      block: in tokens.
      n_random: random blocks of every block of queries, by head.
      n_window: neighbouring blocks, one's own in the middle.
      n_global: first blocks, which all see and which see all.
      among: towards both sides, random blocks come from the first so many: those of the greatest length.
      seed: of the draws; layers that should differ have one per block of the period.
      and those of `SeparateHeads`.

    Source: Zaheer et al. 2020 (2007.14062), section 2.
    """

    per_block: ClassVar[tuple[str, ...]] = ("seed",)

    block: int = 64
    n_random: int = 3
    n_window: int = 3
    n_global: int = 1
    among: int = 64
    seed: int = 0

    @property
    def sizes(self) -> dict[str, int]:
        names = ("n_random", "n_window", "n_global", "seed")
        return {name: getattr(self, name) for name in names}

    @property
    def pattern(self):
        if self.causal:
            return patterns.Causal() & patterns.big_bird(self.block, **self.sizes)
        return patterns.big_bird(self.block, among=self.among, **self.sizes)

    def attend(self, q, k, v, **kwargs):
        if self.causal:
            return super().attend(q, k, v, **kwargs)
        sizes = dict(block=self.block, among=self.among, **self.sizes)
        return big_bird_attention(q, k, v, **sizes, implementation=self.implementation, **kwargs)
