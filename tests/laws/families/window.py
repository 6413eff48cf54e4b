"""Sliding windows with attention sinks."""

import numpy as np

from effjax.layers.window import WindowAttention
from effjax.ops.patterns import Causal, Sinks, SlidingWindow
from effjax.ops.sparse import sparse_attention
from tests.laws.families.family import Family, allowed, dense, on_arrays

WINDOW, SINKS = 7, 2


def op(arrays, frozen, *, causal=True, **kwargs):
    pattern = SlidingWindow(WINDOW - 1) | Sinks(SINKS)
    pattern = Causal() & pattern if causal else pattern
    return sparse_attention(arrays["q"], arrays["k"], arrays["v"], pattern=pattern, **kwargs)


def oracle(arrays, frozen, **rules):
    time = np.arange(arrays["q"].shape[1])
    near = (np.abs(time[:, None] - time) < WINDOW) | (time < SINKS)
    return dense(arrays["q"], arrays["k"], arrays["v"], allowed(len(time), **rules) & near)


WINDOW_AND_SINKS = Family(
    name="window",
    sequences=("v", "q", "k"),
    op=on_arrays(op),
    oracle=oracle,
    layer=lambda **kwargs: WindowAttention(**dict(window=WINDOW, sinks=SINKS) | kwargs),
    streaming=dict(rotary=True),
)
