"""Law 6: packed documents do not see each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws.measure import LENGTH, family_op, make_layer, masks, tokens

SEGMENTS = (np.arange(LENGTH) >= LENGTH // 2 + 1).astype(np.int32)[None].repeat(2, axis=0)


@pytest.mark.needs("segments")
def test_another_document_changes_nothing(family, implementation):
    arrays, _ = family.inputs(LENGTH, dtype=np.float32)
    op = family_op(family, implementation, not family.both_sides, LENGTH)
    nothing, rules = np.zeros(family.shape(2, LENGTH), np.float32), masks(family, segment_ids=SEGMENTS)
    run = lambda arrays: np.asarray(op(arrays, nothing, **rules)[0])
    before = run(arrays)
    for document in (0, 1):
        changed = dict(arrays)
        for name in family.sequences:
            theirs = (SEGMENTS != document).reshape(SEGMENTS.shape + (1,) * (arrays[name].ndim - 2))
            changed[name] = np.where(theirs, 5 - 2 * arrays[name], arrays[name])
        after = run(changed)
        own = SEGMENTS == document
        np.testing.assert_array_equal(before[own], after[own])
        assert not np.array_equal(before[~own], after[~own])


@pytest.mark.needs("segments")
def test_no_gradient_across_documents(family, implementation):
    arrays, _ = family.inputs(LENGTH, dtype=np.float32)
    first = np.random.default_rng(1).normal(size=family.shape(2, LENGTH)).astype(np.float32)
    first[SEGMENTS == 1] = 0
    op = family_op(family, implementation, not family.both_sides, LENGTH)
    _, gradients = op(arrays, first, **masks(family, segment_ids=SEGMENTS))
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
