"""Law 7: bfloat16 inputs as large as 1e3 stay finite, forward and backward."""

import jax.numpy as jnp
import numpy as np

from tests.laws.families import CHUNK
from tests.laws.measure import cast, value_and_grads


def test_large_bfloat16_stays_finite(family, implementation, causal):
    arrays, frozen = family.inputs(3 * CHUNK)
    large = {name: 1e3 * np.clip(arrays[name], -1, 1) for name in family.sequences}
    arrays = cast(arrays | large, jnp.bfloat16)
    run = lambda arrays: family.op(arrays, frozen, causal=causal, implementation=implementation)
    out, grads = value_and_grads(run, arrays, np.ones(family.shape(2, 3 * CHUNK)))
    assert out.dtype == jnp.bfloat16
    for leaf in (out, *grads.values()):
        assert np.isfinite(np.asarray(leaf, np.float32)).all()
    assert np.abs(np.asarray(out, np.float32)).max() > 100
