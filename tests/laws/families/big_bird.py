"""BigBird: causal, and towards both sides with each example's own last block global."""

import numpy as np

from effjax.layers.sparse import BigBirdAttention
from effjax.ops.big_bird import big_bird_attention
from effjax.ops.patterns import Causal, RandomBlocks, big_bird
from effjax.ops.sparse import sparse_attention
from tests.laws.families.family import Family, allowed, dense, on_arrays

BLOCK, AMONG = 4, 12
SIZES = dict(n_random=1, n_window=3, n_global=1)


def op(arrays, frozen, *, causal=True, **kwargs):
    q, k, v = arrays["q"], arrays["k"], arrays["v"]
    if causal:
        return sparse_attention(q, k, v, pattern=Causal() & big_bird(BLOCK, **SIZES), **kwargs)
    return big_bird_attention(q, k, v, block=BLOCK, among=AMONG, **SIZES, **kwargs)


def oracle(arrays, frozen, *, causal=True, padding_mask=None, **rules):
    """Block by block, with the random blocks as the rule draws them."""
    batch, length, heads, _ = arrays["q"].shape
    there = np.ones((batch, length), bool) if padding_mask is None else np.asarray(padding_mask)
    drawn = RandomBlocks(BLOCK, 1, first=1, gap=1, among=None if causal else AMONG)
    random = np.stack([drawn.dense(length, head) for head in range(heads)])
    visible = np.zeros((batch, heads, length, length), bool)
    for example in range(batch):
        last = np.flatnonzero(there[example]).max(initial=0) // BLOCK
        for i in range(length):
            for j in range(length):
                a, b = i // BLOCK, j // BLOCK
                ends = {0} if causal else {0, last}
                visible[example, :, i, j] = abs(a - b) <= 1 or a in ends or b in ends or random[:, i, j]
    mask = visible & allowed(length, causal=causal, padding_mask=padding_mask, **rules)
    return dense(arrays["q"], arrays["k"], arrays["v"], mask)


BIG_BIRD = Family(
    name="big_bird",
    sequences=("v", "q", "k"),
    op=on_arrays(op),
    oracle=oracle,
    layer=lambda **kwargs: BigBirdAttention(**dict(block=BLOCK, among=AMONG, **SIZES) | kwargs),
    streaming=dict(rotary=True),
)
