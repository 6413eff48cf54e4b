"""Law 1: outputs, states and every gradient equal a naive dense version in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws.measure import LENGTH, cast, family_op, make_layer, relative_rms, tokens, value_and_grads

PADDING = np.arange(LENGTH)[None, :] < np.array([LENGTH, LENGTH - 6])[:, None]
SEGMENTS = np.stack([np.arange(LENGTH) // 9, np.arange(LENGTH) // 7]).astype(np.int32)
RULES = {
    "causal": dict(causal=True),
    "both_sides": dict(causal=False),
    "padded": dict(causal=False, padding_mask=PADDING),
    "packed": dict(causal=True, segment_ids=SEGMENTS),
    "packed_and_padded": dict(causal=True, padding_mask=PADDING, segment_ids=SEGMENTS),
    "packed_and_padded_both_sides": dict(causal=False, padding_mask=PADDING, segment_ids=SEGMENTS),
}


def hardest(family, rules) -> bool:
    """Whether a family has no rules that hold these and more; the others are slow tests."""
    return "padding_mask" in rules and ("segment_ids" in rules or not family.segments)


@functools.cache
def expected(family, name):
    """Inputs that are the same numbers in every precision, a cotangent, and what the oracle makes of them."""
    rules = RULES[name]
    arrays, frozen = family.inputs(LENGTH)
    arrays = jax.device_get(cast(cast(arrays, jnp.bfloat16), jnp.float32))
    cotangent = np.random.default_rng(1).normal(size=family.shape(2, LENGTH))
    if "padding_mask" in rules:  # what comes out at a padded query is the layer's to clear
        cotangent = cotangent * PADDING.reshape(PADDING.shape + (1,) * (cotangent.ndim - 2))
    with jax.enable_x64(True):
        oracle = lambda arrays: family.oracle(arrays, frozen, **rules)
        return arrays, cotangent, jax.device_get(value_and_grads(oracle, cast(arrays, jnp.float64), cotangent))


def test_op_equals_dense_float64(family, implementation, rules):
    arrays, cotangent, (out, grads) = expected(family, next(name for name in RULES if RULES[name] is rules))
    masks = {name: mask for name, mask in rules.items() if name != "causal"}
    run = family_op(family, implementation, rules["causal"], LENGTH)
    valid = rules.get("padding_mask", np.ones((2, LENGTH), bool))
    precisions = [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)]
    for dtype, bound in precisions if hardest(family, rules) else precisions[:1]:
        fast_out, fast_grads = run(cast(arrays, dtype), cast(cotangent, jnp.float32), **masks)
        assert relative_rms(fast_out[valid], out[valid]) <= bound
        assert relative_rms(fast_grads, grads) <= bound


@pytest.mark.needs("causal")
def test_state_is_the_right_one(family):
    layer, params = make_layer(family)
    x = tokens((2, 5))
    _, state = jax.jit(layer.apply)(params, x, layer.initial_state(2, max_length=11))
    family.check_state(layer, params, x, state)
