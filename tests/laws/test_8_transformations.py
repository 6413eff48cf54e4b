"""Law 8: jit, vmap, reverse mode, remat and scan agree; new values never retrace."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws.families import CHUNK
from tests.laws.measure import make_layer, relative_norm, relative_rms, tokens

LENGTH = 2 * CHUNK + 1


@pytest.fixture
def layer_loss(family):
    layer, params = make_layer(family)
    return lambda params, x: jnp.sum(jnp.sin(layer.apply(params, x)[0])), params


@pytest.mark.slow
def test_transformations_agree(layer_loss):
    """Reverse mode under vmap against remat inside a scan."""
    loss, params = layer_loss
    batches = tokens((2, 2, LENGTH))
    grad = jax.value_and_grad(loss, argnums=(0, 1))
    remat = jax.value_and_grad(jax.checkpoint(loss), argnums=(0, 1))

    @jax.jit
    def scanned(params, batches):
        return jax.lax.scan(lambda _, x: (None, remat(params, x)), None, batches)[1]

    expected = scanned(params, batches)
    assert relative_rms(jax.jit(jax.vmap(grad, (None, 0)))(params, batches), expected) <= 1e-5


@pytest.mark.slow
def test_jit_agrees_with_op_by_op(layer_loss):
    loss, params = layer_loss
    x = tokens((2, LENGTH))
    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, x)
    assert relative_rms(loss(params, x), value) <= 1e-5
    mapped = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1)), (None, 0)))(params, x[None])
    # Of the whole tree: a key bias, to which the softmax is blind, has a gradient of rounding errors alone.
    assert relative_norm(jax.tree.map(lambda leaf: leaf[0], mapped), gradients) <= 1e-5


@pytest.mark.needs("causal")
def test_new_values_do_not_retrace(family):
    layer, params = make_layer(family)
    traces = []

    @jax.jit
    def run(params, x, state, padding_mask):
        traces.append(None)
        return layer.apply(params, x, state, padding_mask=padding_mask)

    state = layer.initial_state(2, max_length=LENGTH)
    for step in range(3):
        mask = np.random.default_rng(step).random((2, 4)) > 0.3
        _, state = run(
            jax.tree.map(lambda leaf, step=step: leaf + step, params), tokens((2, 4), seed=step), state, mask
        )
    assert len(traces) == 1
