"""Law 2: changing the future changes no past output, bit for bit, and no gradient flows back from the past to it."""

import numpy as np
import pytest

from tests.laws.families import CHUNK
from tests.laws.measure import family_op

LENGTH = 4 * CHUNK + 5


@pytest.mark.needs("causal")
def test_future_changes_no_past_output(family, implementation):
    arrays, _ = family.inputs(LENGTH, batch=1, dtype=np.float32)
    nothing = np.zeros(family.shape(1, LENGTH), np.float32)
    run = lambda arrays: np.asarray(family_op(family, implementation, True, LENGTH, 1)(arrays, nothing)[0])
    before = run(arrays)
    for now in (1, CHUNK, 2 * CHUNK + 3):
        changed = {name: array.copy() for name, array in arrays.items()}
        for name in family.sequences:
            changed[name][:, now:] = 7.0 - 3.0 * changed[name][:, now:]
        after = run(changed)
        np.testing.assert_array_equal(before[:, :now], after[:, :now])
        assert not np.array_equal(before[:, now:], after[:, now:])


@pytest.mark.needs("causal")
def test_no_gradient_from_past_to_future(family, implementation):
    arrays, _ = family.inputs(LENGTH, batch=1, dtype=np.float32)
    now = CHUNK + 2
    past = np.random.default_rng(1).normal(size=family.shape(1, LENGTH)).astype(np.float32)
    past[:, now:] = 0
    _, gradients = family_op(family, implementation, True, LENGTH, 1)(arrays, past)
    for name in family.sequences:
        assert not np.asarray(gradients[name])[:, now:].any()
        assert np.asarray(gradients[name])[:, :now].any()
