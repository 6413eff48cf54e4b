"""Relative attention: against its definition pair by pair in float64, its shift, its span, and what it merges with."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from effjax.ops import relative_batched, relative_blocked
from effjax.ops.relative import rel_shift, relative_attention
from tests.ops.attention_oracle import assert_close, random_arrays, value_and_grads
from tests.ops.relative_oracle import dense

both = pytest.mark.parametrize("implementation", ["blocked", "batched"])
HEADS, WIDTH = 2, 4

CASES = {  # queries, keys, distances with an embedding, and the rest
    "whole past": (53, 60, 60, {}),
    "clamped": (53, 60, 7, dict(window=30)),
    "span": (53, 90, 30, dict(min_distance=1, window=30, rel_start=1, ramp=8.0)),
    "both sides": (53, 53, 105, dict(min_distance=None, rel_start=-52)),
    "both sides, clamped": (53, 53, 6, dict(min_distance=-5, window=8, rel_start=-3)),
    "short": (9, 16, 16, dict(window=6)),
    "one query": (1, 40, 31, dict(window=30)),
    "keys in the middle": (9, 12, 20, dict(query_offset=2)),
    "all keys long past": (5, 3, 20, dict(query_offset=8)),
    "no key": (1, 1, 1, dict(min_distance=1)),
}
QUICK = {"blocked": ("clamped", "span", "both sides"), "batched": ("clamped", "span", "one query")}


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks of queries and of keys, the last ones ragged."""
    for module, name, size in (
        (relative_blocked, "QUERIES", 16),
        (relative_blocked, "KEYS", 24),
        (relative_batched, "BLOCK", 16),
        (relative_batched, "LONG_BLOCK", 24),
    ):
        monkeypatch.setattr(module, name, size)


@pytest.mark.parametrize(
    "name, implementation",
    [
        pytest.param(name, form, marks=[pytest.mark.slow] * (name not in quick))
        for form, quick in QUICK.items()
        for name in CASES
    ],
)
def test_equals_dense_float64(name, implementation, small_blocks):
    """Outputs, log-sums and every gradient, of packed documents with holes."""
    length, keys, distances, options = CASES[name]
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        shapes = (2, length, HEADS, WIDTH), *[(2, keys, HEADS, WIDTH)] * 2, (distances, HEADS, WIDTH)
        arrays = random_arrays(*shapes, *[(HEADS, WIDTH)] * 2)
        if "ramp" in options:
            arrays += (jnp.asarray(rng.uniform(0, 30, (2, length, HEADS))),)
        cotangents = random_arrays((2, length, HEADS, WIDTH), (2, length, HEADS), seed=1)
        documents = np.sort(rng.integers(0, 2, (2, keys)))
        own = np.clip(np.arange(length) + options.get("query_offset", keys - length), 0, keys - 1)
        there = rng.random((2, keys)) > 0.2
        rules = dict(
            segment_ids=jnp.asarray(documents[:, own]),
            key_segment_ids=jnp.asarray(documents),
            padding_mask=jnp.asarray(there),
        )
        visible = (documents[:, own][:, :, None] == documents[:, None]) & there[:, None]

        def ours(q, k, v, rel, content_bias, position_bias, span=None):
            biases = dict(content_bias=content_bias, position_bias=position_bias, span=span)
            out, lse = relative_attention(q, k, v, rel=rel, **biases, **options, **rules, implementation=implementation)
            return out, jnp.where(lse > -1e29, lse, 0)

        def run(f):
            go = lambda arrays, cotangents: (lambda y, pull: (*y, *pull(cotangents)))(*jax.vjp(f, *arrays))
            return jax.jit(go)(arrays, cotangents)

        assert_close(run(ours), run(partial(dense, **options, visible=visible[:, None])), 1e-12)


shift = jax.jit(rel_shift, static_argnums=1)


def test_shift_is_exact():
    """y_ij = x_{i, j + T - 1 - i} for every key up to the query's own, at any length of memory."""
    for length, memory in ((1, 0), (1, 5), (4, 0), (5, 3), (3, 9)):
        keys = length + memory
        x = jnp.arange(2 * length * keys, dtype=jnp.int32).reshape(2, length, keys).astype(jnp.float32)
        y = np.asarray(shift(x, keys))
        for i in range(length):
            for j in range(keys):
                expected = x[:, i, j + length - 1 - i] if j <= memory + i else 0
                assert np.array_equal(y[:, i, j], np.broadcast_to(expected, 2))


def test_shift_of_both_sides_is_exact():
    """Columns in the order T - 1 … 1 - T: y_ij is the score of the distance i - j."""
    for length in (1, 2, 3, 5, 8, 17):
        distances = jnp.arange(length - 1, -length, -1, dtype=jnp.float32)
        x = 100 * jnp.arange(length, dtype=jnp.float32)[:, None] + distances
        i, j = np.ogrid[:length, :length]
        assert np.array_equal(shift(x, length), 100 * i + (i - j))


def test_a_part_of_the_keys_merges_with_the_rest():
    """Near keys and far keys, each with its logarithm of the sum, give the whole, gradients too."""
    with jax.enable_x64(True):
        *arrays, g = random_arrays(*[(1, 40, HEADS, WIDTH)] * 3, (40, HEADS, WIDTH), (1, 40, HEADS, WIDTH))

        def parts(q, k, v, rel):
            attend = partial(relative_attention, q, k, v, rel=rel, implementation="batched")
            (near, near_sum), (far, far_sum) = attend(window=9), attend(min_distance=10)
            total = jnp.logaddexp(near_sum, far_sum)
            return sum(jnp.exp(lse - total)[..., None] * out for out, lse in ((near, near_sum), (far, far_sum)))

        whole = lambda q, k, v, rel: relative_attention(q, k, v, rel=rel, implementation="batched")[0]
        assert_close(value_and_grads(parts, arrays, g), value_and_grads(whole, arrays, g), 1e-12)


def test_spans_of_whole_numbers():
    """z = 0 sees the ramp, and the gradient of a whole span counts both ends of the ramp, as in the original."""
    zeros = jnp.zeros((1, 12, 1, 12))

    @jax.jit
    def weights(z):
        out, lse = relative_attention(
            zeros[:, :1],
            zeros,
            jnp.eye(12)[None, :, None],
            rel=jnp.zeros((1, 1, 12)),
            min_distance=1,
            ramp=4.0,
            span=jnp.full((1, 1, 1), z),
            query_offset=12,
        )
        return out[0, 0, 0] * jnp.exp(lse[0, 0, 0])  # m(x), before they are divided by their sum

    for z, expected in ((0.0, [0.25, 0.5, 0.75, 1]), (2.0, [0.25, 0.5, 0.75, 1, 1, 1])):
        np.testing.assert_allclose(weights(z), [0] * (12 - len(expected)) + expected, atol=1e-6)
    rise = jax.jit(jax.jacrev(weights))(0.0)
    np.testing.assert_allclose(rise, [0] * 7 + [0.25] * 5, atol=1e-6)


@both
def test_keys_out_of_the_window_are_not_computed(implementation):
    """Linear cost: NaN beyond the blocks in reach of the window never meets a query."""
    q, k, v, rel = random_arrays(*[(1, 2048, 1, 4)] * 3, (33, 1, 4), dtype=np.float32)
    far = jnp.full((1, 1024, 1, 4), jnp.nan)
    beside = lambda x: jnp.concatenate([far, x], axis=1)
    attend = partial(relative_attention, rel=rel, window=32, implementation=implementation)
    seen = slice(1024, None)
    np.testing.assert_array_equal(attend(q, beside(k), beside(v))[0][:, seen], attend(q, k, v)[0][:, seen])


@pytest.mark.parametrize("implementation", ["blocked", pytest.param("batched", marks=pytest.mark.slow)])
def test_dropout_keeps_the_mean_and_both_passes_agree(implementation, small_blocks):
    def f(arrays, key, g):
        q, k, v, rel = arrays
        drop = dict(dropout_rate=0.3, dropout_key=key, implementation=implementation)
        return jnp.vdot(relative_attention(q, k, v, rel=rel, **drop)[0], g)

    with jax.enable_x64(True):
        *arrays, g = random_arrays(*[(2, 50, 2, 4)] * 3, (50, 2, 4), (2, 50, 2, 4))
        steps = list(random_arrays(*[x.shape for x in arrays], seed=1))
        run, key = jax.jit(jax.value_and_grad(f)), jax.random.key(1)
        slope = sum(jnp.vdot(grad, step) for grad, step in zip(run(arrays, key, g)[1], steps))
        moved = lambda sign: jax.tree.map(lambda x, step: x + sign * 1e-5 * step, arrays, steps)
        ahead, behind = (run(moved(sign), key, g)[0] for sign in (1, -1))
        assert abs((ahead - behind) / 2e-5 - slope) < 1e-6 * abs(slope)
        constant = [*arrays[:2], jnp.ones_like(arrays[2]), arrays[3]]  # every output is 1 but for what is dropped
        sums = [run(constant, jax.random.key(seed), g)[0] for seed in range(40)]
        assert abs(np.mean(sums) - g.sum()) < 4 * np.std(sums) / np.sqrt(len(sums)) and np.std(sums) > 0.1


@pytest.mark.eight_devices
@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["batched", None])
def test_eight_devices_equal_one(implementation, small_blocks):
    mesh = jax.make_mesh((2, 2, 2), ("data", "sequence", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    *arrays, g = random_arrays(*[(2, 64, 2, 8)] * 4, dtype=np.float32)
    (rel,) = random_arrays((20, 2, 8), dtype=np.float32, seed=1)
    f = lambda q, k, v, rel: relative_attention(q, k, v, rel=rel, window=40, implementation=implementation)[0]
    split = jax.device_put((*arrays, g), jax.NamedSharding(mesh, P("data", "sequence", "tensor")))
    ours = value_and_grads(f, (*split[:3], jax.device_put(rel, jax.NamedSharding(mesh, P(None, "tensor")))), split[3])
    assert_close(ours, value_and_grads(f, (*arrays, rel), g), 1e-6)


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(window=-1), "window is -1"),
        (dict(window=3, min_distance=4), "window is 3 and min_distance 4"),
        (dict(span=jnp.ones((1, 1, 1)), min_distance=None), "a span needs"),
        (dict(ramp=0.0), "ramp is 0.0"),
        (dict(key_segment_ids=jnp.zeros((1, 8), jnp.int32)), "without segment_ids"),
        (dict(dropout_rate=0.1), "dropout_key is None"),
        (dict(implementation="splash"), "implementation is 'splash'"),
    ],
)
def test_mistakes_are_named(options, words):
    q = jnp.zeros((1, 8, 1, 4))
    with pytest.raises(ValueError, match=words):
        relative_attention(q, q, q, rel=jnp.zeros((8, 1, 4)), **options)
