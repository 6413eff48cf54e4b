"""LSH attention: a position sees the positions whose vectors fall into its bucket (Reformer)."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from effjax.layers.cache import nan_past_the_end, write
from effjax.layers.mixer import Mixer, at_least_one, neutralise, stream_segments
from effjax.layers.projections import from_heads, to_heads
from effjax.ops.hashing import default_n_buckets, hash_vectors, lsh_rotations
from effjax.ops.lsh import LOOK_BACKS, SCALINGS, lsh_attention
from effjax.ops.lsh_decode import lsh_decode


@flax.struct.dataclass
class BucketCache:
    """Past vectors, values and their buckets: O(n), since any of them may share a bucket with a token to come."""

    key: jax.Array  # [B, max_length, N, H]
    value: jax.Array
    buckets: jax.Array  # [B, max_length, N, R]
    segment_ids: jax.Array  # [B, max_length], -1 where empty or padded
    index: jax.Array  # tokens seen so far


class LSHAttention(Mixer):
    """Shared-QK attention among positions that hash alike, in sorted chunks, over several rounds.

    One projection serves as query and (normalised) key. Rotations are drawn per head from the rng collection `hash`
    where the caller passes one, and from `hash_seed` otherwise, so that evaluation and generation are repeatable.
    Streaming attends by the dense definition (`effjax.ops.lsh_decode`): a new token sees every past token that
    shares a bucket with it in some round. One pass over sorted chunks equals it with `same_bucket=True` while no bucket
    overflows its chunk; otherwise chunks cut buckets (and, by default, let a chunk's other buckets in).

    Attributes:
      n_hashes: rounds R.
      chunk_size: tokens in a sorted chunk.
      n_buckets: buckets per round, even, or the even factors of that number; None chooses by length.
      causal: a position sees itself and the past only.
      look_back, scaling, same_bucket, correct_duplicates, implementation: see `effjax.ops.lsh.lsh_attention`.
      hash_seed: seed of the rotations where no `hash` rng is given.

    Source: Kitaev, Kaiser & Levskaya 2020 (2001.04451), section 2; `LSHSelfAttention` in trax.
    """

    n_hashes: int = 2
    chunk_size: int = 64
    n_buckets: int | tuple[int, ...] | None = None
    causal: bool = True
    look_back: str = "circular"
    scaling: str = "unit_keys"
    same_bucket: bool = False
    correct_duplicates: bool = False
    implementation: str | None = None
    hash_seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        at_least_one(n_hashes=self.n_hashes, chunk_size=self.chunk_size)
        factors = () if self.n_buckets is None else np.atleast_1d(self.n_buckets).tolist()
        if any(factor < 2 or factor % 2 for factor in factors):
            raise ValueError(f"n_buckets={self.n_buckets}; an even number, a tuple of even numbers or None is allowed")
        for name, allowed in (("look_back", LOOK_BACKS), ("scaling", SCALINGS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}; one of {', '.join(allowed)} is allowed")

    def setup(self):
        self.query_key = to_heads(self.n_heads, self.head_dim, dtype=self.dtype)
        self.value = to_heads(self.n_heads, self.head_dim, dtype=self.dtype)
        self.out = from_heads(self.d_model, dtype=self.dtype)

    def mix(
        self, x, state=None, replay=None, *, positions=None, padding_mask=None, segment_ids=None, deterministic=True
    ):
        x = neutralise(x, padding_mask)
        qk, v = self.query_key(x), self.value(x)
        if state is None:
            n_buckets = self.n_buckets or default_n_buckets(x.shape[1], self.chunk_size)
            y, replay = lsh_attention(
                qk,
                v,
                rotations=self.rotations(n_buckets) if replay is None else None,
                buckets=replay,
                n_buckets=n_buckets,
                chunk_size=self.chunk_size,
                causal=self.causal,
                look_back=self.look_back,
                scaling=self.scaling,
                same_bucket=self.same_bucket,
                correct_duplicates=self.correct_duplicates,
                padding_mask=padding_mask,
                segment_ids=segment_ids,
                **self.attention_dropout(deterministic),
                implementation=self.implementation,
            )
        else:
            if self.attention_dropout(deterministic):
                raise ValueError(
                    f"dropout_rate={self.dropout_rate}: a stream of LSH attention takes no dropout, only 0"
                )
            y, state = self.stream(qk, v, stream_segments(x, padding_mask, segment_ids), state)
            replay = ()
        return neutralise(self.out(y), padding_mask), state, replay

    def stream(self, qk, v, segments, state: BucketCache):
        n_buckets = self.n_buckets or default_n_buckets(state.key.shape[1], self.chunk_size)
        buckets = hash_vectors(qk, self.rotations(n_buckets), n_buckets=n_buckets)
        offset = state.index
        state = BucketCache(
            key=write(state.key, qk, offset),
            value=write(state.value, v, offset),
            buckets=write(state.buckets, buckets, offset),
            segment_ids=write(state.segment_ids, segments, offset),
            index=offset + qk.shape[1],
        )
        y = lsh_decode(
            qk,
            state.key.astype(qk.dtype),
            state.value.astype(qk.dtype),
            buckets_new=buckets,
            bucket_cache=state.buckets,
            query_offset=offset,
            scaling=self.scaling,
            correct_duplicates=self.correct_duplicates,
            segment_ids=jnp.maximum(segments, 0),
            key_segment_ids=state.segment_ids,
        )
        return nan_past_the_end(y, state.index, state.key.shape[1]), state

    def rotations(self, n_buckets):
        key = self.make_rng("hash") if self.has_rng("hash") else jax.random.key(self.hash_seed)
        return lsh_rotations(
            key, n_heads=self.n_heads, head_dim=self.head_dim, n_hashes=self.n_hashes, n_buckets=n_buckets
        )

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> BucketCache:
        if not self.causal:
            raise ValueError("causal=False cannot stream: a token's output needs tokens that are still to come")
        heads = jnp.zeros((batch_size, max_length, self.n_heads, self.head_dim), dtype)
        return BucketCache(
            key=heads,
            value=heads,
            buckets=jnp.zeros((batch_size, max_length, self.n_heads, self.n_hashes), jnp.int32),
            segment_ids=jnp.full((batch_size, max_length), -1, jnp.int32),
            index=jnp.zeros((), jnp.int32),
        )
