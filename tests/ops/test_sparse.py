"""The executor of patterns against a dense float64 oracle, for every rule, combination and length."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.accounting.flops import count_flops
from effjax.ops import sparse_layout
from effjax.ops.patterns import (
    Causal,
    Fixed,
    GlobalTokens,
    LogSparse,
    Pattern,
    PerHead,
    RandomBlocks,
    SlidingWindow,
    Strided,
    from_mask,
)
from effjax.ops.sparse import sparse_attention
from tests.ops.attention_oracle import assert_close, dense_attention, random_arrays, value_and_grads

both = pytest.mark.parametrize("implementation", ["blocked", "batched"])

RULES = {
    "causal": Causal(),
    "window": SlidingWindow(9) & Causal(),
    "both sides": SlidingWindow(5),
    "dilated": SlidingWindow(4, 3) & Causal(),
    "strided": Strided(8),
    "fixed": Fixed(12, 3),
    "log": LogSparse(),
    "globals": Causal() & (SlidingWindow(6) | GlobalTokens((0, 23))),
    "random": SlidingWindow(3) | RandomBlocks(8, 2, seed=1),
    "per head": PerHead((Strided(6), SlidingWindow(7) & Causal(), Fixed(10, 2))),
    "mask": from_mask(np.random.default_rng(0).random((3, 80, 80)) < 0.1),
}


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(sparse_layout, "BLOCKS", (16, 32))


def dense(pattern: Pattern, heads: int, length: int) -> np.ndarray:
    return np.stack([pattern.dense(length, head) for head in range(heads)])[None]


@both
@pytest.mark.parametrize("name", RULES)
def test_equals_dense_float64(name, implementation, small_blocks):
    length, pattern = 61, RULES[name]
    with jax.enable_x64(True):
        *arrays, g = random_arrays((2, length, 3, 4), *[(2, length, 3, 4)] * 3)
        segments = np.sort(np.random.default_rng(1).integers(0, 3, (2, length)))
        padding = np.arange(length) < np.array([[length], [length // 2]])
        rules = {"segment_ids": jnp.asarray(segments), "padding_mask": jnp.asarray(padding)}
        visible = dense(pattern, 3, length)
        visible = visible & (segments[:, None, :, None] == segments[:, None, None]) & padding[:, None, None]
        ours = partial(sparse_attention, pattern=pattern, **rules, implementation=implementation)
        assert_close(
            value_and_grads(ours, arrays, g),
            value_and_grads(partial(dense_attention, visible=visible), arrays, g),
            1e-12,
        )
