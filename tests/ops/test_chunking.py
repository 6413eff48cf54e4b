import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.ops.chunking import map_chunks


def feed(kernel):
    return lambda x: jax.nn.gelu(x @ kernel) @ kernel.T


@pytest.mark.parametrize("chunk_size", [1, 4, 5, 13, 20])
def test_slices_change_nothing(chunk_size):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 13, 3)), rng.normal(size=(3, 7))
    with jax.enable_x64(True):
        whole = jax.value_and_grad(lambda k, x: jnp.sum(jnp.sin(feed(k)(x))), argnums=(0, 1))(kernel, x)
        sliced = lambda k, x: jnp.sum(jnp.sin(map_chunks(feed(k), jnp.asarray(x), chunk_size=chunk_size)))
        ours = jax.value_and_grad(sliced, argnums=(0, 1))(jnp.asarray(kernel), x)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), ours, whole)


def test_hidden_layer_of_one_slice_is_in_memory():
    kernel, x = jnp.zeros((16, 4096)), jnp.zeros((1, 8192, 16))

    def temporary(chunk_size):
        loss = lambda x: jnp.sum(map_chunks(feed(kernel), x, chunk_size=chunk_size))
        return jax.jit(jax.grad(loss)).lower(x).compile().memory_analysis().temp_size_in_bytes

    assert temporary(512) < temporary(8192) / 8


def test_chunk_size_is_checked():
    with pytest.raises(ValueError, match="chunk_size=0"):
        map_chunks(lambda x: x, jnp.zeros((1, 2, 3)), chunk_size=0)
