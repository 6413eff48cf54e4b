"""effjax: `make(length, n_heads, head_dim) -> fn(q, k, v)` on `[1, T, N, H]`; those with peers by their names there."""

import jax
import jax.numpy as jnp

from effjax.ops.favor import favor_attention
from effjax.ops.favor_features import favor_projection
from effjax.ops.full import full_attention
from effjax.ops.hashing import lsh_rotations
from effjax.ops.linformer import linformer_attention
from effjax.ops.lsh import lsh_attention
from effjax.ops.patterns import Causal, Fixed, SlidingWindow, Strided
from effjax.ops.sparse import sparse_attention

WINDOW, FEATURES, HASHES, CHUNK, LOW_RANK = 512, 256, 4, 64, 256


def lsh(length, n_heads, head_dim):
    buckets = max(2, length // CHUNK)
    rotations = lsh_rotations(jax.random.key(0), n_heads=n_heads, head_dim=head_dim, n_hashes=HASHES, n_buckets=buckets)
    options = dict(rotations=rotations, n_buckets=buckets, chunk_size=CHUNK)
    return lambda q, k, v: lsh_attention(q, v, **options)[0]


def favor(length, n_heads, head_dim):
    projection = favor_projection(jax.random.key(0), FEATURES, head_dim)
    return lambda q, k, v: favor_attention(q, k, v, projection=projection, causal=True)[0]


def linformer(length, n_heads, head_dim):
    project = jax.random.normal(jax.random.key(0), (LOW_RANK, length), jnp.float32) * length**-0.5
    return lambda q, k, v: linformer_attention(q, k, v, proj_k=project, proj_v=project)


def window(length, n_heads, head_dim):
    pattern = Causal() & SlidingWindow(WINDOW - 1)
    return lambda q, k, v: sparse_attention(q, k, v, pattern=pattern)


def strided(stride):
    def make(length, n_heads, head_dim):
        pattern = Strided(stride or root(length))
        return lambda q, k, v: sparse_attention(q, k, v, pattern=pattern)

    return make


def fixed(length, n_heads, head_dim):
    return lambda q, k, v: sparse_attention(q, k, v, pattern=Fixed(root(length), root(length) // 4))


def root(length: int) -> int:
    """The power of two at or below the root."""
    return 1 << (length.bit_length() - 1) // 2


def strided_keys(n: int, s: int) -> int:
    """Pairs of a query and a key that the strided pattern allows: the last s positions, every s-th before them."""
    return sum(min(i + 1, s) + i // s for i in range(n))


def fixed_keys(n: int) -> int:
    """Pairs that the fixed pattern allows: one's own block up to oneself, and the last quarters of those before it."""
    s = root(n)
    return sum(i % s + 1 + i // s * (s // 4) for i in range(n))


OURS = {
    "exact": lambda *sizes: full_attention,
    "causal": lambda *sizes: lambda q, k, v: full_attention(q, k, v, causal=True),
    "window 512": window,
    "LSH, 4 rounds": lsh,
    "FAVOR+, 256 features": favor,
    "Linformer, 256": linformer,
    "strided, 128": strided(128),  # the stride of the paper on images of 64 x 64
    "strided, root": strided(None),
    "fixed": fixed,
}
# Useful FLOPs of forward and backward, of a query and head and unit of width: 14 per key that counts.
FLOPS = {
    "exact": lambda n: 14 * n * n,
    "causal": lambda n: 14 * n * (n + 1) / 2,
    "window 512": lambda n: 14 * sum(min(i + 1, WINDOW) for i in range(n)),
    "LSH, 4 rounds": lambda n: 14 * n * HASHES * 2 * CHUNK,
    # Features of queries and keys, sums and read-outs: forward 8 M a position; triangles inside chunks not counted.
    "FAVOR+, 256 features": lambda n: 3 * 8 * n * FEATURES,
    "Linformer, 256": lambda n: 14 * n * LOW_RANK + 3 * 4 * n * LOW_RANK,
    "strided, 128": lambda n: 14 * strided_keys(n, 128),
    "strided, root": lambda n: 14 * strided_keys(n, root(n)),
    "fixed": lambda n: 14 * fixed_keys(n),
}
