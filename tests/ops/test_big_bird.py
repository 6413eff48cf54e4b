"""BigBird towards both sides: each example's own last block is global, whatever follows it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.ops.big_bird import big_bird_attention
from effjax.ops.patterns import GlobalTokens, big_bird
from tests.ops.attention_oracle import assert_close, dense_attention, random_arrays, value_and_grads

BLOCK = 8


@pytest.mark.parametrize("length", [1, BLOCK, 3 * BLOCK, 41])
def test_without_padding_the_end_of_the_array_is_the_last_block(length):
    q, k, v, g = random_arrays(*[(1, length, 2, 4)] * 4, dtype=np.float32)
    start = (length - 1) // BLOCK * BLOCK
    static = big_bird(BLOCK, n_random=1, among=6) | GlobalTokens(tuple(range(start, length)))
    visible = np.stack([static.dense(length, head) for head in range(2)])[None]
    ours = value_and_grads(partial(big_bird_attention, block=BLOCK, n_random=1, among=6), (q, k, v), g)
    theirs = value_and_grads(partial(dense_attention, visible=visible), (q, k, v), g)
    assert_close(ours, theirs, 1e-5, noise=1e-6)  # one key's weight is 1: no gradient of it, but for rounding


def test_memory_is_linear():
    def temporary_bytes(length):
        def step(q, k, v, g):
            attend = partial(big_bird_attention, block=64, among=64, padding_mask=jnp.ones((1, length), bool))
            return jax.vjp(attend, q, k, v)[1](g)

        x = jax.ShapeDtypeStruct((1, length, 2, 32), jnp.float32)
        return jax.jit(step).lower(x, x, x, x).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(8192) <= 2.2**2 * temporary_bytes(2048)
