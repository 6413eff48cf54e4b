"""Angular hashing and sorting by bucket."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.ops.hashing import default_n_buckets, hash_vectors, lsh_rotations, sort_by_bucket


def draw(shape=(2, 50, 3, 8), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def rotations(n_buckets, rounds=2, **options):
    return lsh_rotations(jax.random.key(0), n_heads=3, head_dim=8, n_hashes=rounds, n_buckets=n_buckets, **options)


hashed = jax.jit(hash_vectors, static_argnames="n_buckets")


@pytest.mark.parametrize("n_buckets", [2, 10, (4, 6), (2, 4, 2)])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_bucket_is_the_nearest_of_the_random_directions(n_buckets, batch_size):
    x, directions = draw(), rotations(n_buckets, batch_size=batch_size)
    projected = np.einsum("btnh,...nhrc->btnrc" if batch_size is None else "btnh,bnhrc->btnrc", x, directions)
    expected, start, weight = 0, 0, 1
    for factor in np.atleast_1d(n_buckets).tolist():
        y = projected[..., start : start + factor // 2]
        expected += weight * np.concatenate([y, -y], -1).argmax(-1)
        start, weight = start + factor // 2, weight * factor
    np.testing.assert_array_equal(hashed(x, directions, n_buckets=n_buckets), expected)


def test_long_sequences_hash_in_blocks(monkeypatch):
    x, directions = draw((1, 101, 3, 8)), rotations(16)
    whole = hashed(x, directions, n_buckets=16)
    monkeypatch.setattr("effjax.ops.hashing._HASH_BLOCK", 200)
    np.testing.assert_array_equal(whole, hash_vectors(jnp.asarray(x), directions, n_buckets=16))


def test_length_of_a_vector_does_not_matter():
    """Invariant 6; powers of two, which scale without rounding."""
    x, directions = draw(), rotations(10)
    np.testing.assert_array_equal(hashed(x, directions, n_buckets=10), hashed(x * 2.0**-9, directions, n_buckets=10))


def test_collisions_fall_with_the_angle_and_buckets_are_equally_likely():
    """Invariant 6."""
    x = draw((1, 4000, 3, 8))
    directions = rotations(4, rounds=20)
    buckets = hashed(x, directions, n_buckets=4)
    np.testing.assert_allclose(np.bincount(np.ravel(buckets)) / buckets.size, 0.25, atol=0.02)
    away = draw((1, 4000, 3, 8), seed=1)
    away -= (away * x).sum(-1, keepdims=True) / np.square(x).sum(-1, keepdims=True) * x
    away *= np.linalg.norm(x, axis=-1, keepdims=True) / np.linalg.norm(away, axis=-1, keepdims=True)
    share = [
        (buckets == hashed(np.cos(angle) * x + np.sin(angle) * away, directions, n_buckets=4)).mean()
        for angle in np.linspace(0, np.pi, 7).astype(np.float32)
    ]
    assert share[0] == 1 and share[-1] == 0
    assert (np.diff(share) < 0).all()


def test_not_a_number_still_has_a_bucket():
    buckets = hashed(np.full((1, 4, 3, 8), np.nan, np.float32), rotations(6), n_buckets=6)
    assert ((buckets >= 0) & (buckets < 6)).all()


@pytest.mark.parametrize("n_buckets", [7, None, 2**30])
def test_order_and_inverse_undo_each_other(n_buckets):
    """Invariant 7; 2^30 buckets overflow the one-number key and take the other way."""
    buckets = np.random.default_rng(0).integers(0, 7, (3, 2, 41), dtype=np.int32)
    order, inverse = jax.jit(sort_by_bucket, static_argnums=1)(buckets, n_buckets)
    np.testing.assert_array_equal(order, np.argsort(buckets, axis=-1, kind="stable"))
    np.testing.assert_array_equal(
        np.take_along_axis(np.asarray(order), np.asarray(inverse), -1), np.arange(41) + 0 * order
    )


@pytest.mark.parametrize(
    "length, chunk_size, n_buckets",
    [(10, 64, 2), (1024, 64, 32), (4096, 64, 128), (65536, 256, (32, 16)), (65536, 64, (64, 32))],
)
def test_default_number_of_buckets(length, chunk_size, n_buckets):
    assert default_n_buckets(length, chunk_size) == n_buckets


@pytest.mark.parametrize("n_buckets", [5, 0, (4, 3), ()])
def test_odd_numbers_of_buckets_are_refused(n_buckets):
    with pytest.raises(ValueError, match=r"n_buckets=.*even number"):
        rotations(n_buckets)


def test_other_mistakes_are_named():
    with pytest.raises(ValueError, match="n_hashes=0: must be at least 1"):
        rotations(4, rounds=0)
    with pytest.raises(ValueError, match="chunk_size=0: must be at least 1"):
        default_n_buckets(16, 0)
