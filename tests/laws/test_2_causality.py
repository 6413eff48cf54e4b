"""Law 2: changing the future changes no past output, bit for bit, and no gradient flows back from the past to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws.families import CHUNK

LENGTH = 3 * CHUNK + 1


@pytest.mark.needs("causal")
def test_future_changes_no_past_output(family, implementation):
    arrays, frozen = family.inputs(LENGTH, dtype=np.float32)
    run = jax.jit(lambda arrays: family.op(arrays, frozen, causal=True, implementation=implementation))
    before = np.asarray(run(arrays))
    for now in (1, CHUNK, 2 * CHUNK + 3):
        changed = {name: array.copy() for name, array in arrays.items()}
        for name in family.sequences:
            changed[name][:, now:] = 7.0 - 3.0 * changed[name][:, now:]
        after = np.asarray(run(changed))
        np.testing.assert_array_equal(before[:, :now], after[:, :now])
        assert not np.array_equal(before[:, now:], after[:, now:])


@pytest.mark.needs("causal")
def test_no_gradient_from_past_to_future(family, implementation):
    arrays, frozen = family.inputs(LENGTH, dtype=np.float32)
    now = CHUNK + 2

    def past(arrays):
        return jnp.sum(family.op(arrays, frozen, causal=True, implementation=implementation)[:, :now] ** 2)

    gradients = jax.jit(jax.grad(past))(arrays)
    for name in family.sequences:
        assert not np.asarray(gradients[name])[:, now:].any()
        assert np.asarray(gradients[name])[:, :now].any()
