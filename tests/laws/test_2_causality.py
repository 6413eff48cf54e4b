"""Law 2: changing the future changes no past output, bit for bit, and no gradient flows back from the past to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws.families import CHUNK

LENGTH = 3 * CHUNK + 1


@pytest.mark.parametrize("now", [1, CHUNK, 2 * CHUNK + 3])
def test_future_changes_no_past_output(family, implementation, now):
    arrays, frozen = family.inputs(LENGTH, dtype=np.float32)
    changed = {name: array.copy() for name, array in arrays.items()}
    for name in changed:
        changed[name][:, now:] = 7.0 - 3.0 * changed[name][:, now:]
    run = jax.jit(lambda arrays: family.op(arrays, frozen, causal=True, implementation=implementation))
    before, after = np.asarray(run(arrays)), np.asarray(run(changed))
    np.testing.assert_array_equal(before[:, :now], after[:, :now])
    assert not np.array_equal(before[:, now:], after[:, now:])


def test_no_gradient_from_past_to_future(family, implementation):
    arrays, frozen = family.inputs(LENGTH, dtype=np.float32)
    now = CHUNK + 2

    def past(arrays):
        return jnp.sum(family.op(arrays, frozen, causal=True, implementation=implementation)[:, :now] ** 2)

    for gradient in jax.jit(jax.grad(past))(arrays).values():
        assert not np.asarray(gradient)[:, now:].any()
        assert np.asarray(gradient)[:, :now].any()
