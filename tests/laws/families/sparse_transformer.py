"""The Sparse Transformer's two patterns."""

import math

import numpy as np

from effjax.layers.sparse import FixedAttention, StridedAttention
from effjax.ops.patterns import Fixed, Strided
from effjax.ops.sparse import sparse_attention
from tests.laws.families.family import CHUNK, HEADS, Family, allowed, dense, on_arrays

SUMMARY = 2


def attend(pattern):
    def op(arrays, frozen, *, causal=True, **kwargs):
        return sparse_attention(arrays["q"], arrays["k"], arrays["v"], pattern=pattern, **kwargs)

    return on_arrays(op)


def look(visible):
    """Dense attention where `visible(i, j, head)`, asked pair by pair, says so."""

    def oracle(arrays, frozen, **rules):
        length = arrays["q"].shape[1]
        pairs = [[[visible(i, j, n) for j in range(length)] for i in range(length)] for n in range(HEADS)]
        mask = np.array(pairs).reshape(1, HEADS, length, length)
        return dense(arrays["q"], arrays["k"], arrays["v"], allowed(length, **rules) & mask)

    return oracle


def summary_of_head(i, j, head):
    """Heads take turns: even ones see the last cells of a block, odd ones those before."""
    cells = range(CHUNK - (head % 2 + 1) * SUMMARY, CHUNK - head % 2 * SUMMARY)
    return i // CHUNK == j // CHUNK or j % CHUNK in cells


STRIDED = Family(
    name="strided",
    sequences=("v", "q", "k"),
    op=attend(Strided(CHUNK)),
    oracle=look(lambda i, j, head: i - j < CHUNK or (i - j) % CHUNK == 0),
    layer=lambda **kwargs: StridedAttention(**dict(stride=CHUNK) | kwargs),
    both_sides=False,
    streaming=dict(rotary=True),
    growth="n_sqrt_n",
    batched_memory="n_sqrt_n",
    sized=lambda length: dict(stride=math.isqrt(length)),
)

FIXED = Family(
    name="fixed",
    sequences=("v", "q", "k"),
    op=attend(Fixed(CHUNK, SUMMARY, groups=2)),
    oracle=look(summary_of_head),
    layer=lambda **kwargs: FixedAttention(**dict(block=CHUNK, summary=SUMMARY, groups=2) | kwargs),
    both_sides=False,
    streaming=dict(rotary=True),
    growth="n_sqrt_n",
    batched_memory="n_sqrt_n",
    sized=lambda length: dict(block=math.isqrt(length), summary=8, groups=1),
)
