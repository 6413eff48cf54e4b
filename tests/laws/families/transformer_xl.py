"""Attention with relative positions over a segment and its memory."""

import functools

import numpy as np

from effjax.layers import TransformerXLAttention
from effjax.ops.relative import relative_attention
from tests.laws.families.family import HEADS, WIDTH, Family, allowed, on_arrays
from tests.laws.measure import relative_rms
from tests.ops.relative_oracle import dense

MEMORY, CLAMP = 12, 9


def oracle(arrays, frozen, *, causal, **rules):
    visible = allowed(arrays["q"].shape[1], causal=causal, **rules)
    return dense(**arrays, window=MEMORY - 1, visible=visible)[0]


def op(arrays, frozen, *, causal, **rules):
    assert causal
    return relative_attention(**arrays, window=MEMORY - 1, **rules)[0]


def check_state(layer, params, x, state):
    """The inputs themselves, the newest last."""
    assert int(state.index) == x.shape[1] and state.rows[0].shape == (2, MEMORY, x.shape[2])
    live = np.asarray(state.segment_ids) >= 0
    assert live.tolist() == [[False] * (MEMORY - x.shape[1]) + [True] * x.shape[1]] * 2
    assert relative_rms(np.asarray(state.rows[0])[live].reshape(x.shape), x) == 0


TRANSFORMER_XL = Family(
    name="transformer_xl",
    sequences=("v", "q", "k"),
    op=on_arrays(op),
    oracle=oracle,
    layer=functools.partial(TransformerXLAttention, memory_length=MEMORY, same_length=True, clamp_length=CLAMP),
    parameters=lambda rng: {
        "rel": rng.normal(size=(CLAMP + 1, HEADS, WIDTH)),
        "content_bias": rng.normal(size=(HEADS, WIDTH)),
        "position_bias": rng.normal(size=(HEADS, WIDTH)),
    },
    implementations=("blocked",),  # the other one: tests/ops/test_relative.py
    both_sides=False,
    check_state=check_state,
)
