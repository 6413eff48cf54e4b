"""Law 7: bfloat16 inputs as large as 1e3 stay finite, forward and backward."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws.families import CHUNK
from tests.laws.measure import cast, value_and_grads


@pytest.mark.parametrize("causal", [True, False])
def test_large_bfloat16_stays_finite(family, implementation, causal):
    arrays, frozen = family.inputs(3 * CHUNK)
    arrays = cast({name: 1e3 * np.clip(array, -1, 1) for name, array in arrays.items()}, jnp.bfloat16)
    out, grads = value_and_grads(
        lambda a: family.op(a, frozen, causal=causal, implementation=implementation), arrays, np.ones(arrays["v"].shape)
    )
    assert out.dtype == jnp.bfloat16
    for leaf in (out, *grads.values()):
        assert np.isfinite(np.asarray(leaf, np.float32)).all()
    assert np.abs(np.asarray(out, np.float32)).max() > 100
