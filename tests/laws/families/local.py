"""Chunked local attention."""

import numpy as np

from effjax.layers import LocalAttention
from effjax.ops.local import local_attention
from tests.laws.families.family import CHUNK, Family, allowed, dense, on_arrays


def oracle(arrays, frozen, *, causal=True, **rules):
    length = arrays["q"].shape[1]
    chunk = np.arange(length) // CHUNK
    behind = chunk[:, None] - chunk[None, :]
    near = (behind <= 1) & (behind >= (0 if causal else -1))
    return dense(arrays["q"], arrays["k"], arrays["v"], allowed(length, causal=causal, **rules) & near)


def op(arrays, frozen, *, causal=True, **kwargs):
    sizes = dict(chunk_size=CHUNK, look_ahead=0 if causal else 1)
    return local_attention(arrays["q"], arrays["k"], arrays["v"], causal=causal, **sizes, **kwargs)


LOCAL = Family(
    name="local",
    sequences=("v", "q", "k"),
    op=on_arrays(op),
    oracle=oracle,
    layer=lambda *, causal=True, **kwargs: LocalAttention(
        **dict(chunk_size=CHUNK, causal=causal, look_ahead=0 if causal else 1) | kwargs
    ),
    streaming=dict(rotary=True),
)
