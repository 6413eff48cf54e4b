"""Law 7: bfloat16 inputs as large as 1e3 stay finite, forward and backward."""

import jax.numpy as jnp
import numpy as np

from tests.laws.measure import LENGTH, cast, family_op, masks


def test_large_bfloat16_stays_finite(family, implementation, causal):
    arrays, _ = family.inputs(LENGTH)
    large = {name: 1e3 * np.clip(arrays[name], -1, 1) for name in family.sequences}
    arrays = cast(arrays | large, jnp.bfloat16)
    run = family_op(family, implementation, causal, LENGTH)
    out, grads = run(arrays, np.ones(family.shape(2, LENGTH), np.float32), **masks(family))
    assert out.dtype == jnp.bfloat16
    for leaf in (out, *grads.values()):
        assert np.isfinite(np.asarray(leaf, np.float32)).all()
    assert np.abs(np.asarray(out, np.float32)).max() > 100
