"""Law 4: every length works; nothing has to divide anything."""

import jax
import numpy as np
import pytest

from tests.laws.families import CHUNK
from tests.laws.measure import family_op, relative_rms, value_and_grads

LENGTHS = (37, *(pytest.param(length, marks=pytest.mark.slow) for length in (1, CHUNK - 1, CHUNK, CHUNK + 1)))


@pytest.mark.parametrize("length", LENGTHS)
def test_any_length(family, implementation, length):
    arrays, frozen = family.inputs(length, batch=1)
    cotangent = np.ones(family.shape(1, length), np.float32)
    with jax.enable_x64(True):
        expected = jax.device_get(
            value_and_grads(lambda a: family.oracle(a, frozen, causal=family.causal), arrays, cotangent)
        )
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    out, grads = family_op(family, implementation, family.causal, length, 1)(arrays, cotangent)
    assert relative_rms(out, expected[0]) <= 1e-5
    # Some gradients are zero: one key's weight is 1, whatever it is. What is left is the rounding of what cancels, the
    # worth of a value (its sum, under this cotangent) times a feature of the other side.
    epsilon = np.finfo(np.float32).eps
    worth = max(np.abs(array).sum(-1).max() for array in arrays.values())
    noise = epsilon * worth * max(np.abs(array).max() for array in arrays.values())
    for name, gradient in grads.items():
        scale = np.abs(expected[1][name]).max()
        difference = np.abs(np.asarray(gradient) - expected[1][name]).max()
        assert difference <= (noise if scale < 1e-12 else 1e-5 * scale + 2 * epsilon)
