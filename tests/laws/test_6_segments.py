"""Law 6: packed documents do not see each other."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.laws.families import CHUNK

LENGTH = 3 * CHUNK
SEGMENTS = (np.arange(LENGTH) >= CHUNK + 3).astype(np.int32)[None].repeat(2, axis=0)


def test_another_document_changes_nothing(family, implementation):
    arrays, frozen = family.inputs(LENGTH, dtype=np.float32)
    run = jax.jit(
        lambda arrays: family.op(
            arrays, frozen, causal=False, segment_ids=jnp.asarray(SEGMENTS), implementation=implementation
        )
    )
    before = np.asarray(run(arrays))
    for document in (0, 1):
        theirs = (SEGMENTS != document)[..., None, None]
        changed = {name: np.where(theirs, 5 - 2 * array, array) for name, array in arrays.items()}
        after = np.asarray(run(changed))
        own = SEGMENTS == document
        np.testing.assert_array_equal(before[own], after[own])
        assert not np.array_equal(before[~own], after[~own])


def test_no_gradient_across_documents(family, implementation):
    arrays, frozen = family.inputs(LENGTH, dtype=np.float32)

    def first_document(arrays):
        out = family.op(arrays, frozen, causal=False, segment_ids=jnp.asarray(SEGMENTS), implementation=implementation)
        return jnp.sum(jnp.where((SEGMENTS == 0)[..., None, None], out, 0.0) ** 2)

    for gradient in jax.jit(jax.grad(first_document))(arrays).values():
        assert not np.asarray(gradient)[SEGMENTS == 1].any()
        assert np.asarray(gradient)[SEGMENTS == 0].any()
