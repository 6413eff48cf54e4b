"""Angular locality-sensitive hashing: vectors to buckets, and positions into the order of their buckets.

Vectors that point the same way are likely to fall into the same bucket; sorting by bucket brings them together.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32, Key

from effjax.ops.heads import over_heads
from effjax.ops.platforms import by_platform

NBuckets = int | tuple[int, ...]

_HASH_BLOCK = 2**20  # projections of a head held at once


def default_n_buckets(length: int, chunk_size: int) -> NBuckets:
    """Chooses the number of buckets so that one bucket holds half a chunk on average: b = 2 max(1, length // chunk).

    More than 128 are factorised, b = b1 b2 with b1 = 2^ceil(log2 sqrt b), since hashing costs b1 + b2 instead of b.

    Args:
      length: sequence length in tokens.
      chunk_size: tokens in a chunk of the sorted sequence.

    Returns:
      An even number, or a pair of even numbers.

    Source: google/trax, `LSHSelfAttention` with `n_buckets` unset.
    """
    _at_least_one("length", length)
    _at_least_one("chunk_size", chunk_size)
    total = 2 * max(1, length // chunk_size)
    if total <= 128:
        return total
    first = 2 ** math.ceil(math.log2(math.sqrt(total)))
    return first, 2 * (total // (2 * first))


def lsh_rotations(
    key: Key[Array, ""],
    *,
    n_heads: int,
    head_dim: int,
    n_hashes: int,
    n_buckets: NBuckets,
    batch_size: int | None = None,
) -> Float[Array, "*B N H R b"]:
    """Draws the random projections of angular hashing, R ~ N(0, 1).

    Args:
      key: random key.
      n_heads: N.
      head_dim: H.
      n_hashes: rounds of hashing, R.
      n_buckets: an even number of buckets, or several whose product is the number (factorised hashing).
      batch_size: draw one set for each of so many examples, as trax does; None draws one for all.

    Returns:
      float32 [N, H, R, sum(n_buckets) / 2], with a leading batch axis if batch_size is given.

    Raises:
      ValueError: a number of buckets is odd or less than 2, or n_hashes less than 1.

    Source: Kitaev et al., Reformer, section 2 "Locality sensitive hashing"; Andoni et al., arXiv 1509.02897.
    """
    _at_least_one("n_hashes", n_hashes)
    batch = () if batch_size is None else (batch_size,)
    return jax.random.normal(key, (*batch, n_heads, head_dim, n_hashes, sum(_factors(n_buckets)) // 2), jnp.float32)


def hash_vectors(
    x: Float[Array, "B T N H"], rotations: Float[Array, "... N H R b"], *, n_buckets: NBuckets
) -> Int32[Array, "B T N R"]:
    """Hashes every vector once per round: h(x) = argmax over [x R ; -x R].

    With several factors each takes its own columns of R, and h = h1 + b1 h2 + b1 b2 h3 ...: little-endian digits.

    Args:
      x: vectors to hash; their lengths do not matter.
      rotations: from `lsh_rotations`, shared by the batch or one per example.
      n_buckets: as given to `lsh_rotations`.

    Returns:
      Buckets in [0, prod(n_buckets)), no gradient.

    Raises:
      ValueError: rotations do not have the sum(n_buckets) / 2 columns that n_buckets needs.

    Source: Kitaev et al., Reformer, section 2; factors as in google/trax `hash_vecs`.
    """
    factors = _factors(n_buckets)
    if rotations.shape[-1] != sum(factors) // 2:
        raise ValueError(
            f"rotations have {rotations.shape[-1]} columns; n_buckets={n_buckets} needs {sum(factors) // 2} "
            "(half the sum of its factors)"
        )
    x, rotations = lax.stop_gradient((x.swapaxes(1, 2), rotations.astype(x.dtype)))
    hash_head = lambda x, rotations: _hash_head(x, rotations, factors)
    buckets = over_heads(hash_head, None, x, jnp.broadcast_to(rotations, (*x.shape[:2], *rotations.shape[-3:])))
    return buckets.swapaxes(1, 2)


def _hash_head(x, rotations, factors):
    """Buckets [T, R] of vectors [T, H]: a block of them at a time, for with many buckets the projections are large."""

    def hash_block(block):
        accumulator = jnp.promote_types(x.dtype, jnp.float32)
        projected = jnp.einsum("th,hrc->trc", block, rotations, preferred_element_type=accumulator)
        bucket, start, weight = 0, 0, 1
        for factor in factors:
            bucket += weight * _nearest_direction(projected[..., start : start + factor // 2])
            start, weight = start + factor // 2, weight * factor
        return bucket

    (length, width), (_, rounds, columns) = x.shape, rotations.shape
    blocks = -(-length * rounds * columns // _HASH_BLOCK)
    size = -(-length // blocks)
    x = jnp.pad(x, ((0, blocks * size - length), (0, 0)))
    return lax.map(hash_block, x.reshape(blocks, size, width)).reshape(-1, rounds)[:length]


def sort_by_bucket(
    buckets: Int32[Array, "*rows L"], n_buckets: int | None
) -> tuple[Int32[Array, "*rows L"], Int32[Array, "*rows L"]]:
    """Orders positions by (bucket, position).

    Args:
      buckets: the bucket of each position.
      n_buckets: all buckets are below this number; None if unknown, which sorts more slowly on the CPU.

    Returns:
      (order, inverse): order[s] is the position that stands at place s, and inverse[order[s]] = s.
    """
    length = buckets.shape[-1]
    positions = lax.broadcasted_iota(jnp.int32, buckets.shape, buckets.ndim - 1)
    if n_buckets is not None and n_buckets * length < 2**31:
        order = jnp.sort(buckets * length + positions, axis=-1) % length
    else:
        _, order = lax.sort((buckets, positions), num_keys=1, is_stable=True)
    return order, by_platform(order, cpu=_invert_by_scatter, default=_invert_by_sort)


def _invert_by_scatter(order):
    invert = lambda row: (
        jnp.zeros_like(row)
        .at[row]
        .set(jnp.arange(row.shape[0], dtype=row.dtype), unique_indices=True, mode="promise_in_bounds")
    )
    for _ in range(order.ndim - 1):  # axis by axis, for merging axes would mix sharded ones
        invert = jax.vmap(invert)
    return invert(order)


def _invert_by_sort(order):
    return jnp.argsort(order).astype(jnp.int32)


def _nearest_direction(projected):
    """argmax over [y, -y], first of equals, as two plain reductions: the CPU vectorises those, but no argmax."""
    half = projected.shape[-1]
    highest = jnp.abs(projected).max(-1, keepdims=True)
    index = lax.broadcasted_iota(jnp.int32, projected.shape, projected.ndim - 1)
    candidates = jnp.where(projected == highest, index, jnp.where(projected == -highest, index + half, 2 * half))
    # A vector of NaN equals nothing; it still needs a bucket that exists.
    return jnp.minimum(candidates.min(-1), 2 * half - 1)


def _factors(n_buckets):
    factors = (n_buckets,) if isinstance(n_buckets, int) else tuple(n_buckets)
    if not factors or any(factor < 2 or factor % 2 for factor in factors):
        raise ValueError(f"n_buckets={n_buckets}: every factor must be an even number of at least 2")
    return factors


def total_buckets(n_buckets: NBuckets) -> int:
    """The number of buckets: the product of the factors."""
    return math.prod(_factors(n_buckets))


def _at_least_one(name, value):
    if value < 1:
        raise ValueError(f"{name}={value}: must be at least 1")
