"""Law 6: packed documents do not see each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws.families import CHUNK
from tests.laws.measure import make_layer, tokens

LENGTH = 3 * CHUNK
SEGMENTS = (np.arange(LENGTH) >= CHUNK + 3).astype(np.int32)[None].repeat(2, axis=0)


@pytest.mark.needs("segments")
def test_another_document_changes_nothing(family, implementation):
    arrays, frozen = family.inputs(LENGTH, dtype=np.float32)
    run = jax.jit(
        lambda arrays: family.op(
            arrays,
            frozen,
            causal=not family.both_sides,
            segment_ids=jnp.asarray(SEGMENTS),
            implementation=implementation,
        )
    )
    before = np.asarray(run(arrays))
    for document in (0, 1):
        changed = dict(arrays)
        for name in family.sequences:
            theirs = (SEGMENTS != document).reshape(SEGMENTS.shape + (1,) * (arrays[name].ndim - 2))
            changed[name] = np.where(theirs, 5 - 2 * arrays[name], arrays[name])
        after = np.asarray(run(changed))
        own = SEGMENTS == document
        np.testing.assert_array_equal(before[own], after[own])
        assert not np.array_equal(before[~own], after[~own])


@pytest.mark.needs("segments")
def test_no_gradient_across_documents(family, implementation):
    arrays, frozen = family.inputs(LENGTH, dtype=np.float32)

    def first_document(arrays):
        rules = dict(causal=not family.both_sides, segment_ids=jnp.asarray(SEGMENTS))
        out = family.op(arrays, frozen, implementation=implementation, **rules)
        first = (SEGMENTS == 0).reshape(SEGMENTS.shape + (1,) * (out.ndim - 2))
        return jnp.sum(jnp.where(first, out, 0.0) ** 2)

    gradients = jax.jit(jax.grad(first_document))(arrays)
    for name in family.sequences:
        assert not np.asarray(gradients[name])[SEGMENTS == 1].any()
        assert np.asarray(gradients[name])[SEGMENTS == 0].any()


def test_a_family_that_cannot_keep_documents_apart_says_so(family):
    layer, params = make_layer(family)
    arguments = dict(segment_ids=jnp.asarray(SEGMENTS))
    if family.segments:
        y, _ = jax.jit(layer.apply)(params, tokens(SEGMENTS.shape), **arguments)
        assert np.isfinite(np.asarray(y)).all()
    else:
        with pytest.raises(ValueError, match="segment_ids"):
            layer.apply(params, tokens(SEGMENTS.shape), **arguments)
