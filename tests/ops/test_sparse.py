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
from effjax.ops.sparse_plan import plan
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


QUICK = {"blocked": {"causal", "globals", "per head"}, "batched": {"per head"}}  # the others take as long each


@pytest.mark.parametrize(
    "implementation, name",
    [
        pytest.param(form, name, marks=() if name in quick else pytest.mark.slow)
        for form, quick in QUICK.items()
        for name in RULES
    ],
)
def test_equals_dense_float64(implementation, name, small_blocks):
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


@both
def test_every_length(implementation, small_blocks):
    pattern = Strided(6) | SlidingWindow(4)
    for length in (1, 5, 6, 31):
        with jax.enable_x64(True):
            *arrays, g = random_arrays(*[(1, length, 1, 4)] * 4, dtype=np.float64)
            ours = partial(sparse_attention, pattern=pattern & Causal(), implementation=implementation)
            theirs = partial(dense_attention, visible=dense(pattern & Causal(), 1, length))
            assert_close(value_and_grads(ours, arrays, g), value_and_grads(theirs, arrays, g), 1e-12)


@both
def test_float32_and_bf16(implementation):
    pattern, shape = Strided(8), (1, 100, 2, 16)
    ours = partial(sparse_attention, pattern=pattern, implementation=implementation)
    for dtype, bound in ((np.float32, 1e-5), (jnp.bfloat16, 2e-2)):
        arrays = random_arrays(*[shape] * 4, dtype=dtype)
        found = value_and_grads(ours, arrays[:3], arrays[3])
        with jax.enable_x64(True):
            *exact, g = (x.astype(jnp.float64) for x in arrays)
            truth = value_and_grads(partial(dense_attention, visible=dense(pattern, 2, 100)), exact, g)
        for a, b in zip(found, truth):
            a, b = np.asarray(a, np.float64), np.asarray(b)
            assert np.sqrt(((a - b) ** 2).mean() / (b**2).mean()) <= bound
    large = value_and_grads(ours, tuple(x * 1000 for x in arrays[:3]), arrays[3])
    assert all(x.dtype == jnp.bfloat16 and np.isfinite(x.astype(np.float32)).all() for x in large)


@both
def test_the_future_changes_nothing_bit_for_bit(implementation, small_blocks):
    q, k, v, g = random_arrays(*[(1, 60, 2, 8)] * 4, dtype=np.float32)
    f = jax.jit(partial(sparse_attention, pattern=Strided(7), implementation=implementation))
    cut = 29
    changed = [x.at[:, cut:].add(1) for x in (q, k, v)]
    assert np.array_equal(f(q, k, v)[:, :cut], f(*changed)[:, :cut])
    grads = value_and_grads(f, (q, k, v), g.at[:, cut:].set(0))[1:]
    assert all(not np.asarray(grad[:, cut:]).any() for grad in grads)


@pytest.mark.parametrize("implementation", ["blocked", pytest.param("batched", marks=pytest.mark.slow)])
def test_grouped_heads_offset_bias_and_dropout(implementation, small_blocks):
    """Keys that query heads share, queries that start late, a differentiable bias and dropout, all at once."""
    queries, keys, offset, rate = 37, 50, 13, 0.25
    pattern = Causal() & (SlidingWindow(12) | RandomBlocks(8, 1, seed=3))
    with jax.enable_x64(True):
        q, k, v, g, table, slopes = random_arrays(
            (2, queries, 4, 4), (2, keys, 2, 4), (2, keys, 2, 4), (2, queries, 4, 4), (keys,), (4,)
        )
        i, j = np.ogrid[offset : offset + queries, :keys]
        visible = np.stack([pattern.allows(i, j, head) for head in range(4)])[None]
        here = partial(sparse_attention, pattern=pattern, query_offset=offset, scale=0.3, implementation=implementation)

        def ours(q, k, v, table, slopes):
            bias = lambda query, key, head: table[jnp.abs(query - key)] + slopes[head] * (query - key) / 10
            return here(q, k, v, bias=bias)

        def theirs(q, k, v, table, slopes):
            bias = table[np.abs(i - j)] + slopes[:, None, None] * (i - j) / 10
            return dense_attention(q, k, v, visible, bias=bias, scale=0.3)

        arrays = (q, k, v, table, slopes)
        assert_close(value_and_grads(ours, arrays, g), value_and_grads(theirs, arrays, g), 1e-12)

        drop = {"dropout_rate": rate, "dropout_key": jax.random.key(0)}
        eye = jnp.broadcast_to(jnp.eye(keys)[None, :, None], (2, keys, 2, keys))
        wide = [jnp.pad(x, [(0, 0)] * 3 + [(0, keys - 4)]) for x in (q, k)]
        weights, kept = (np.asarray(here(*wide, eye, **more)) for more in ({}, drop))  # [B, T, N, S]
        seen = weights > 0
        ratio = kept[seen] / weights[seen]
        assert np.allclose(ratio[ratio > 0], 1 / (1 - rate)) and abs((ratio > 0).mean() - (1 - rate)) < 0.05

        def dropped(q, k, v):
            factors = np.where(seen, kept / np.where(seen, weights, 1), 0).swapaxes(1, 2)
            keys_, values = (jnp.repeat(x, 2, axis=2) for x in (k, v))
            s = jnp.where(visible, jnp.einsum("btnh,bsnh->bnts", q, keys_) * 0.3, -jnp.inf)
            return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(s) * factors, values)

        f = lambda q, k, v: here(q, k, v, **drop)
        assert_close(value_and_grads(f, (q, k, v), g), value_and_grads(dropped, (q, k, v), g), 1e-12)


def test_positions_known_at_run_time(small_blocks):
    """A cache in any order, a traced offset: what one pass gives."""
    pattern, length, start = PerHead((Strided(6), Causal() & SlidingWindow(7))), 40, 23
    with jax.enable_x64(True):
        q, k, v, g = random_arrays(*[(2, length, 2, 4)] * 4)
        there = jnp.arange(length) < jnp.array([[length], [30]])
        whole = lambda q, k, v: sparse_attention(q, k, v, pattern=pattern, padding_mask=there)[:, start:]
        order = jnp.asarray(np.random.default_rng(0).permutation(length))

        def late(q, k, v):
            return sparse_attention(
                q[:, start:],
                k[:, order],
                v[:, order],
                pattern=pattern,
                padding_mask=there[:, order],
                query_offset=jnp.asarray(start),
                key_positions=jnp.broadcast_to(order, (2, length)),
            )

        ours, theirs = (value_and_grads(f, (q, k, v), g[:, start:]) for f in (late, whole))
        assert_close(ours, theirs, 1e-12)


def test_rows_that_see_nothing_are_zero(small_blocks):
    mask = np.zeros((40, 40), bool)
    mask[7, 3] = mask[30:, 20:25] = True
    q, k, v = random_arrays(*[(1, 40, 2, 4)] * 3, dtype=np.float32)
    for implementation in ("blocked", "batched"):
        run = partial(sparse_attention, pattern=from_mask(mask), implementation=implementation)
        out, *grads = value_and_grads(run, (q, k, v), jnp.ones_like(q))
        assert np.array_equal(np.asarray(out).any((0, 2, 3)), mask.any(1))
        assert all(np.isfinite(x).all() for x in grads)


def test_residue_classes_of_unequal_length_are_one_batch(small_blocks):
    """Classes whose last position is missing have a mask of their own."""
    length, pattern = 93, Strided(8)
    (group,) = plan(pattern, 2, length, length, 0).groups
    bands = [part.query_band for part in group.parts]
    assert any(band is not None and band.own and len(band.masks) > 1 for band in bands)
    with jax.enable_x64(True):
        *arrays, g = random_arrays(*[(1, length, 2, 4)] * 4)
        ours = partial(sparse_attention, pattern=pattern, implementation="blocked")
        oracle = partial(dense_attention, visible=dense(pattern, 2, length))
        assert_close(value_and_grads(ours, arrays, g), value_and_grads(oracle, arrays, g), 1e-12)


@pytest.mark.slow
def test_transformations_agree(small_blocks):
    q, k, v, g = random_arrays(*[(3, 2, 30, 2, 8)] * 4, dtype=np.float32)
    f = partial(sparse_attention, pattern=Strided(5))
    one_by_one = [value_and_grads(f, (q[i], k[i], v[i]), g[i]) for i in range(3)]
    expected = [np.stack(x) for x in zip(*one_by_one)]

    def scanned(q, k, v):
        return jax.lax.scan(lambda _, x: (None, jax.checkpoint(f)(*x)), None, (q, k, v))[1]

    assert_close(value_and_grads(jax.vmap(f), (q, k, v), g), expected, 1e-6)
    assert_close(value_and_grads(scanned, (q, k, v), g), expected, 1e-6)


@pytest.mark.parametrize("implementation", ["blocked", pytest.param("batched", marks=pytest.mark.slow)])
def test_flops_follow_the_pattern(implementation):
    @cache
    def flops(pattern, length):
        def step(q, k, v, g):
            return jax.vjp(partial(sparse_attention, pattern=pattern, implementation=implementation), q, k, v)[1](g)

        return count_flops(step, *[jax.ShapeDtypeStruct((1, length, 1, 64), jnp.float32)] * 4)

    window = Causal() & SlidingWindow(511)
    for length in (2**14, 2**15):
        assert 1.95 <= flops(window, 2 * length) / flops(window, length) <= 2.2
    for at in (lambda root: Strided(root), lambda root: Fixed(root, 32)):
        assert 7 <= flops(at(256), 2**16) / flops(at(128), 2**14) <= 8.8  # n sqrt(n)


@pytest.mark.slow
def test_memory_follows_the_pattern():
    def temporary_bytes(pattern, length):
        def step(q, k, v, g):
            return jax.vjp(partial(sparse_attention, pattern=pattern), q, k, v)[1](g)

        x = jax.ShapeDtypeStruct((1, length, 2, 32), jnp.float32)
        return jax.jit(step).lower(x, x, x, x).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(Strided(128), 2**16) <= 2.2**2 * temporary_bytes(Strided(128), 2**14)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"pattern": from_mask(np.zeros((16, 16), bool))}, "none of 16 queries sees any of 16 keys"),
        ({"dropout_rate": 0.1}, "dropout_key is None"),
        ({"dropout_rate": 1.0}, "dropout_rate is 1.0"),
        ({"implementation": "dense"}, "implementation is 'dense'"),
        ({"bias": lambda query, key, head: jnp.zeros(3)}, "one number"),
        ({"key_segment_ids": jnp.zeros((1, 16), jnp.int32)}, "without segment_ids"),
    ],
)
def test_mistakes_are_named(options, words):
    q = jnp.zeros((1, 16, 1, 4))
    with pytest.raises(ValueError, match=words):
        sparse_attention(q, q, q, **{"pattern": Causal(), **options})
