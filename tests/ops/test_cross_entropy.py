import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.ops.cross_entropy import chunked_cross_entropy


def inputs(length=13, vocabulary=11):
    rng = np.random.default_rng(0)
    x, kernel, bias = rng.normal(size=(2, length, 5)), rng.normal(size=(5, vocabulary)), rng.normal(size=vocabulary)
    return x, kernel, bias, rng.integers(0, vocabulary, (2, length)).astype(np.int32)


def direct(x, kernel, bias, targets):
    return -jnp.take_along_axis(jax.nn.log_softmax(x @ kernel + bias), targets[..., None], axis=-1)[..., 0]


@pytest.mark.parametrize("chunk_size", [1, 4, 13, 99])
@pytest.mark.parametrize(("dtype", "bound"), [(jnp.float64, 1e-12), (jnp.float32, 1e-5)])
def test_equals_the_direct_form(chunk_size, dtype, bound):
    x, kernel, bias, targets = inputs()
    weights = np.random.default_rng(1).random((2, 13))
    with jax.enable_x64(True):
        expected, pullback = jax.vjp(lambda *args: direct(*args, targets), x, kernel, bias)
        expected_gradients = pullback(jnp.asarray(weights))
        arrays = [jnp.asarray(array, dtype) for array in (x, kernel, bias)]
        ours = lambda x, kernel, bias: chunked_cross_entropy(
            x, kernel, jnp.asarray(targets), bias=bias, chunk_size=chunk_size
        )
        nats, pullback = jax.vjp(ours, *arrays)
        assert nats.dtype == dtype
        gradients = pullback(jnp.asarray(weights, dtype))
        for a, b in zip((nats, *gradients), (expected, *expected_gradients)):
            assert np.abs(np.asarray(a, np.float64) - b).max() <= bound * np.abs(b).max()


def test_logits_of_one_slice_are_in_memory():
    x, kernel, targets = jnp.zeros((1, 4096, 8)), jnp.zeros((8, 8192)), jnp.zeros((1, 4096), jnp.int32)

    def temporary(chunk_size):
        loss = lambda x, kernel: jnp.sum(chunked_cross_entropy(x, kernel, targets, chunk_size=chunk_size))
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(x, kernel).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits = 4096 * 8192 * 4
    assert temporary(4096) > logits
    assert temporary(128) < logits / 8


def test_bfloat16_softmax_is_float32_and_finite():
    x, kernel, bias, targets = inputs()
    nats = chunked_cross_entropy(
        jnp.asarray(1e3 * x, jnp.bfloat16), jnp.asarray(kernel, jnp.float32), jnp.asarray(targets), chunk_size=4
    )
    assert nats.dtype == jnp.float32 and np.isfinite(nats).all()


def test_chunk_size_is_checked():
    x, kernel, _, targets = inputs()
    with pytest.raises(ValueError, match="chunk_size=0"):
        chunked_cross_entropy(jnp.asarray(x), jnp.asarray(kernel), jnp.asarray(targets), chunk_size=0)
