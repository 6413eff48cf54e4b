"""Law 8: jit, vmap, reverse mode, remat and scan agree; new values never retrace."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws.families import CHUNK
from tests.laws.measure import make_layer, relative_norm, relative_rms, tokens

LENGTH = 2 * CHUNK + 1


@pytest.mark.slow
def test_transformations_agree(family):
    """Reverse mode under jit, under vmap, and of a remat inside a scan; the value also op by op."""
    layer, params = make_layer(family)
    loss = lambda params, x: jnp.sum(jnp.sin(layer.apply(params, x)[0]))
    batches = tokens((2, 2, LENGTH))
    grad = jax.value_and_grad(loss, argnums=(0, 1))
    remat = jax.value_and_grad(jax.checkpoint(loss), argnums=(0, 1))

    @jax.jit
    def scanned(params, batches):
        return jax.lax.scan(lambda _, x: (None, remat(params, x)), None, batches)[1]

    value, gradients = jax.jit(grad)(params, batches[0])
    mapped = jax.jit(jax.vmap(grad, (None, 0)))(params, batches)
    assert relative_rms(mapped, scanned(params, batches)) <= 1e-5
    assert relative_rms(loss(params, batches[0]), value) <= 1e-5
    # Of the whole tree: a key bias, to which the softmax is blind, has a gradient of rounding errors alone.
    assert relative_norm(jax.tree.map(lambda leaf: leaf[0], mapped[1]), gradients) <= 1e-5


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
