"""map_chunks is exact at every length, forgets its wide intermediates and leaves a sharded length where it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from effjax.ops.chunking import join_chunks, map_chunks, split_chunks


def feed_forward(params, x):
    return jax.nn.relu(x @ params["w1"]) @ params["w2"]


def make(length, width=8, hidden=32):
    rng = np.random.default_rng(0)
    params = {"w1": rng.normal(size=(width, hidden)), "w2": rng.normal(size=(hidden, 5))}
    return jax.tree.map(jnp.float32, (params, rng.normal(size=(2, length, width))))


@pytest.mark.parametrize("length,chunk_size", [(1, 4), (3, 4), (4, 4), (5, 4), (13, 4), (7, 1)])
def test_values_and_gradients_equal_the_unchunked_function(length, chunk_size):
    params, x = make(length)

    def loss(params, x, chunked):
        fn = lambda c: feed_forward(params, c)
        return jnp.sum(jnp.sin(map_chunks(fn, x, chunk_size=chunk_size) if chunked else fn(x)))

    run = jax.jit(lambda params, x: map_chunks(lambda c: feed_forward(params, c), x, chunk_size=chunk_size))
    np.testing.assert_allclose(run(params, x), feed_forward(params, x), rtol=1e-5, atol=1e-5)
    gradients = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
    ours, expected = (gradients(params, x, chunked) for chunked in (True, False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, expected)


def test_every_chunk_size_leaves_a_shared_dropout_mask_alone():
    params, x = make(12)
    mask = jax.random.bernoulli(jax.random.key(0), 0.5, (1, 1, 5))
    fn = lambda c: jnp.where(mask, feed_forward(params, c), 0)
    np.testing.assert_allclose(map_chunks(fn, x, chunk_size=5), fn(x), rtol=1e-5, atol=1e-5)


def test_a_function_singular_at_zero_gets_no_made_up_zeros():
    x = jnp.ones((1, 5, 3))
    fn = lambda c: c / jnp.linalg.norm(c, axis=-1, keepdims=True)
    grads = jax.jit(jax.grad(lambda x: jnp.sum(map_chunks(fn, x, chunk_size=2) ** 3)))(x)
    assert np.isfinite(grads).all()


def test_split_and_join_are_inverse_and_strided():
    x = jnp.arange(10)[None]
    chunks = split_chunks(x, 4)
    np.testing.assert_array_equal(chunks[:, 0, :3], [[0, 3, 6], [1, 4, 7], [2, 5, 8]])
    np.testing.assert_array_equal(join_chunks(chunks, 10), x)


def test_memory_is_that_of_one_chunk():
    params, x = make(512, hidden=1024)

    def temp_bytes(chunk_size):
        loss = lambda params, x: jnp.sum(map_chunks(lambda c: feed_forward(params, c), x, chunk_size=chunk_size) ** 2)
        return jax.jit(jax.grad(loss, (0, 1))).lower(params, x).compile().memory_analysis().temp_size_in_bytes

    hidden = 2 * 512 * 1024 * 4
    assert temp_bytes(512) >= hidden
    assert temp_bytes(32) < hidden / 3


def test_a_sharded_length_stays_sharded():
    params, x = make(64)
    mesh = jax.make_mesh((2, 4), ("data", "sequence"))
    spec = NamedSharding(mesh, PartitionSpec("data", "sequence"))
    chunked = lambda x: map_chunks(lambda c: feed_forward(params, c), x, chunk_size=16)
    run = jax.jit(chunked, in_shardings=spec, out_shardings=spec)
    text = run.lower(x).compile().as_text()
    assert "all-gather" not in text and "all-to-all" not in text and "collective-permute" not in text
    np.testing.assert_allclose(run(x), feed_forward(params, x), rtol=1e-5, atol=1e-5)


def test_chunk_size_must_be_positive():
    with pytest.raises(ValueError, match="chunk_size=0; 1 or more"):
        map_chunks(lambda c: c, jnp.ones((1, 2, 3)), chunk_size=0)
