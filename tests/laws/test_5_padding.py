"""Law 5: what stands at padded positions, NaN too, changes nothing; a batch of unequal lengths equals one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws.families import CHUNK
from tests.laws.measure import LENGTH, family_op, make_layer, masks, relative_rms, tokens

LENGTHS = (3 * CHUNK, 2 * CHUNK + 3, 1)
PADDING = np.arange(LENGTHS[0])[None, :] < np.array(LENGTHS)[:, None]


@pytest.fixture
def mix(family, causal):
    """`mix(params, x, padding_mask, rows) -> y`, the layer with its discrete choices, if any, held fixed."""
    sides = dict(causal=causal) if family.causal and family.both_sides else {}
    layer, params = make_layer(family, **sides)
    frozen = family.choices(np.random.default_rng(2), len(LENGTHS), LENGTHS[0])

    def apply(params, x, padding_mask, rows=None):
        rows = slice(None) if rows is None else slice(rows, rows + 1)
        replay = family.replay(frozen, rows, x.shape[1])
        options = dict(positions=None, segment_ids=None, deterministic=True)
        return layer.apply(params, x, None, replay, padding_mask=padding_mask, **options, method="mix")[0]

    return jax.jit(apply, static_argnames="rows"), params


def test_padding_changes_nothing_and_unequal_lengths_equal_one_by_one(mix):
    apply, params = mix
    clean = jnp.where(PADDING[..., None], tokens(PADDING.shape), 0)
    dirty = jnp.where(PADDING[..., None], clean, jnp.nan)

    @jax.jit
    def run(params, x):
        y, pullback = jax.vjp(lambda params, x: apply(params, x, PADDING), params, x)
        return y, pullback(jnp.cos(jnp.arange(y.size, dtype=y.dtype).reshape(y.shape)))

    y, gradients = run(params, dirty)
    expected, expected_gradients = run(params, clean)
    jax.tree.map(np.testing.assert_array_equal, (y, gradients), (expected, expected_gradients))
    assert not np.asarray(y)[~PADDING].any()
    assert not np.asarray(gradients[1])[~PADDING].any()
    for row, length in enumerate(LENGTHS):  # each example equals itself alone
        alone = apply(params, clean[row : row + 1, :length], None, row)
        assert relative_rms(y[row, :length], alone[0]) <= 1e-5


def test_a_row_that_sees_nothing_is_zero(family, implementation):
    arrays, _ = family.inputs(LENGTH, dtype=np.float32)
    nobody = masks(family, padding_mask=np.zeros((2, LENGTH), bool))
    run = family_op(family, implementation, family.causal, LENGTH)
    out, gradients = run(arrays, np.ones(family.shape(2, LENGTH), np.float32), **nobody)
    assert not np.asarray(out).any()
    assert not any(np.asarray(gradient).any() for gradient in gradients.values())
