"""Attention with learned spans."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from effjax.layers import AdaptiveSpanAttention
from effjax.ops.adaptive_span import adaptive_span_attention
from tests.laws.families.family import WIDTH, Family, allowed, on_arrays
from tests.laws.measure import relative_rms
from tests.ops.adaptive_span_oracle import dense

SIZES = dict(ramp=3, max_span=12)


def oracle(arrays, frozen, **rules):
    visible = allowed(arrays["q"].shape[1], **rules)
    return dense(*(arrays[name] for name in ("q", "k", "v", "span", "rel_embedding")), visible=visible, **SIZES)


def op(arrays, frozen, *, causal, **rules):
    assert causal
    parameters = {name: arrays[name] for name in ("span", "rel_embedding")}
    return adaptive_span_attention(arrays["q"], arrays["k"], arrays["v"], **parameters, **SIZES, **rules)


def check_state(layer, params, x, state):
    """The inputs themselves, the newest last, in as many slots as a window reaches."""
    kept = SIZES["max_span"]
    assert int(state.index) == x.shape[1] and state.rows[0].shape == (2, kept, x.shape[2])
    live = np.asarray(state.segment_ids) >= 0
    assert live.tolist() == [[False] * (kept - x.shape[1]) + [True] * x.shape[1]] * 2
    assert relative_rms(np.asarray(state.rows[0])[live].reshape(x.shape), x) == 0


ADAPTIVE_SPAN = Family(
    name="adaptive_span",
    sequences=("v", "q", "k"),
    op=on_arrays(op),
    oracle=oracle,
    layer=functools.partial(AdaptiveSpanAttention, **SIZES, initial_span=0.4),
    parameters=lambda rng: {"span": np.array([2.5, 7.75]), "rel_embedding": rng.normal(size=(12, WIDTH))},
    implementations=("blocked",),  # the other one: tests/ops/test_adaptive_span.py
    both_sides=False,
    check_state=check_state,
)


def computed(arrays):
    """[B, T, N]: spans from 0 to the greatest, from an input of their own."""
    wide = jnp.asarray(arrays["u"], jnp.promote_types(arrays["u"].dtype, jnp.float32))
    return SIZES["max_span"] * jax.nn.sigmoid(wide.mean(-1))


def on_computed_spans(function):
    """An op or an oracle whose spans are those of every position."""

    def of(arrays, frozen, **kwargs):
        return function(arrays | {"span": computed(arrays)}, frozen, **kwargs)

    return of


DYNAMIC_SPAN = Family(
    name="dynamic_span",
    sequences=("v", "q", "k", "u"),
    op=on_arrays(on_computed_spans(op)),
    oracle=on_computed_spans(oracle),
    layer=functools.partial(AdaptiveSpanAttention, **SIZES, dynamic=True),
    parameters=lambda rng: {"rel_embedding": rng.normal(size=(12, WIDTH))},
    implementations=("blocked",),
    both_sides=False,
    check_state=check_state,
    sibling="adaptive_span",
)
