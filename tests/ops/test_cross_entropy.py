import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from effjax.ops.cross_entropy import chunked_cross_entropy


def inputs(length=13, vocabulary=11):
    rng = np.random.default_rng(0)
    x, kernel, bias = rng.normal(size=(2, length, 5)), rng.normal(size=(5, vocabulary)), rng.normal(size=vocabulary)
    return x, kernel, bias, rng.integers(0, vocabulary, (2, length)).astype(np.int32)


def direct(x, kernel, bias, targets):
    return -jnp.take_along_axis(jax.nn.log_softmax(x @ kernel + bias), targets[..., None], axis=-1)[..., 0]


def with_gradients(loss, weights, x, kernel, bias, targets):
    """Losses, and the gradients of their weighted sum, in one program."""

    @jax.jit
    def run(weights, *arrays):
        nats, pullback = jax.vjp(lambda *arrays: loss(*arrays, jnp.asarray(targets)), *arrays)
        return nats, pullback(weights)

    return run(weights, x, kernel, bias)


@pytest.mark.parametrize("chunk_size", [*(pytest.param(size, marks=pytest.mark.slow) for size in (1, 13)), 4, 99])
@pytest.mark.parametrize(("dtype", "bound"), [(jnp.float64, 1e-12), (jnp.float32, 1e-5)])
def test_equals_the_direct_form(chunk_size, dtype, bound):
    x, kernel, bias, targets = inputs()
    weights = np.random.default_rng(1).random((2, 13))
    with jax.enable_x64(True):
        expected, expected_gradients = with_gradients(direct, weights, x, kernel, bias, targets)
        ours = lambda x, kernel, bias, targets: chunked_cross_entropy(
            x, kernel, targets, bias=bias, chunk_size=chunk_size
        )
        arrays = [array.astype(dtype) for array in (weights, x, kernel, bias)]
        nats, gradients = with_gradients(ours, *arrays, targets)
        assert nats.dtype == dtype
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
    x, kernel, _, targets = inputs()
    nats = chunked_cross_entropy(
        jnp.asarray(1e3 * x, jnp.bfloat16), jnp.asarray(kernel, jnp.float32), jnp.asarray(targets), chunk_size=4
    )
    assert nats.dtype == jnp.float32 and np.isfinite(nats).all()


def test_weights_scale_the_loss_and_zero_leaves_a_target_out():
    x, kernel, bias, targets = map(jnp.asarray, inputs())
    weights = jnp.asarray([[2.0, 0.0] + [1.0] * 11] * 2)
    nats = chunked_cross_entropy(x, kernel, targets, bias=bias, chunk_size=4)
    run = jax.jit(lambda x: chunked_cross_entropy(x, kernel, targets, bias=bias, weights=weights, chunk_size=4))
    np.testing.assert_allclose(run(x), nats * weights, rtol=1e-6)
    assert not np.any(jax.jit(jax.grad(lambda x: run(x).sum()))(x)[:, 1])


def test_a_sharded_batch_and_length_stay_where_they_are():
    x, kernel, _, targets = inputs(length=64)
    x, kernel, targets = jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32), jnp.asarray(targets)
    mesh = jax.make_mesh((2, 4), ("data", "sequence"))
    spec, whole = (NamedSharding(mesh, P) for P in (PartitionSpec("data", "sequence"), PartitionSpec()))
    loss = lambda x, kernel, targets: chunked_cross_entropy(x, kernel, targets, chunk_size=16).sum()
    grad = jax.value_and_grad(loss, (0, 1))
    run = jax.jit(grad, in_shardings=(spec, whole, spec), out_shardings=(whole, (spec, whole)))
    text = run.lower(x, kernel, targets).compile().as_text()
    assert "all-gather" not in text and "all-to-all" not in text and "collective-permute" not in text
    for a, b in zip(jax.tree.leaves(run(x, kernel, targets)), jax.tree.leaves(grad(x, kernel, targets))):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_chunk_size_is_checked():
    x, kernel, _, targets = inputs()
    with pytest.raises(ValueError, match="chunk_size=0"):
        chunked_cross_entropy(jnp.asarray(x), jnp.asarray(kernel), jnp.asarray(targets), chunk_size=0)
