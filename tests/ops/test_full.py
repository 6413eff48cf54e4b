"""Exact attention: against torch, against the dense definition in float64, and its memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.ops.full import full_attention
from tests.goldens.load import distance, load
from tests.ops.attention_oracle import assert_close, dense_attention, random_arrays, value_and_grads

both = pytest.mark.parametrize("implementation", ["blocked", "batched"])


@both
@pytest.mark.parametrize("variant", ["full", "causal", "padded"])
def test_equals_torch(variant, implementation):
    oracle = load("full_attention")
    inputs = oracle["inputs"]
    q, k, v, g = (x.swapaxes(1, 2) for x in (*(inputs[n] for n in "qkv"), inputs["cotangent"][variant]))
    rules = {"causal": {"causal": True}, "padded": {"padding_mask": jnp.asarray(inputs["key_keep"][:, 0, 0])}}
    f = partial(full_attention, **rules.get(variant, {}), implementation=implementation)
    out, *grads = value_and_grads(f, (jnp.asarray(q), jnp.asarray(k), jnp.asarray(v)), jnp.asarray(g))
    assert distance(out.swapaxes(1, 2), oracle["outputs"][variant]["out"])[1] <= 1e-5
    for name, grad in zip("qkv", grads):
        assert distance(grad.swapaxes(1, 2), oracle["grads"][variant][name])[1] <= 1e-5


CASES = {
    "grouped queries": {"lengths": (300, 300), "key_heads": 2, "causal": True},
    "more keys": {"lengths": (70, 1100), "causal": True, "query_offset": 500, "key_heads": 1},
    "more queries": {"lengths": (1100, 70), "padding": True},
    "offset per example": {"lengths": (5, 600), "causal": True, "query_offset": (3, 590), "mask": True},
    "bias of one row": {"lengths": (290, 600), "bias": (1, 4, 1, 600), "padding": True},
    "bias of all pairs": {"lengths": (600, 290), "bias": (2, 1, 600, 290), "causal": True, "mask": True},
    "everything": {
        "lengths": (530, 270),
        "bias": (1, 4, 530, 270),
        "causal": True,
        "mask": True,
        "padding": True,
        "segments": True,
        "query_offset": -7,
        "key_heads": 2,
    },
}


def rules_of(case, batch, heads, rng):
    """The rules of a case as options of the op, and the pairs that they leave visible."""
    length, keys = case["lengths"]
    options, visible = {"causal": case.get("causal", False)}, np.ones((batch, 1, length, keys), bool)
    if options["causal"]:
        options["query_offset"] = offset = jnp.asarray(case.get("query_offset", 0), jnp.int32)
        query = np.arange(length) + np.broadcast_to(offset, (batch,))[:, None]
        visible &= (query[:, :, None] >= np.arange(keys))[:, None]
    if "padding" in case:
        there = np.arange(keys) < np.array([keys, keys // 3])[:, None]
        options["padding_mask"] = jnp.asarray(there)
        visible &= there[:, None, None]
    if "segments" in case:
        query_ids, key_ids = rng.integers(0, 3, (batch, length)), rng.integers(0, 3, (batch, keys))
        options["segment_ids"], options["key_segment_ids"] = jnp.asarray(query_ids), jnp.asarray(key_ids)
        visible &= (query_ids[:, :, None] == key_ids[:, None])[:, None]
    if "mask" in case:
        mask = rng.random((1, heads, length, keys)) > 0.3
        options["mask"] = jnp.asarray(mask)
        visible = visible & mask
    return options, visible


@both
@pytest.mark.parametrize("name", CASES)
def test_equals_dense_float64(name, implementation):
    case, batch, heads, width = CASES[name], 2, 4, 4
    (length, keys), groups = case["lengths"], case.get("key_heads", heads)
    with jax.enable_x64(True):
        options, visible = rules_of(case, batch, heads, np.random.default_rng(1))
        q, k, v, g = random_arrays(
            (batch, length, heads, width),
            (batch, keys, groups, width),
            (batch, keys, groups, width),
            (batch, length, heads, width),
        )
        arrays = (q, k, v, *random_arrays(case["bias"], seed=2)) if "bias" in case else (q, k, v)

        def ours(q, k, v, bias=None):
            return full_attention(q, k, v, bias=bias, implementation=implementation, **options)

        def theirs(q, k, v, bias=0.0):
            return dense_attention(q, k, v, visible, bias=bias)

        assert_close(value_and_grads(ours, arrays, g), value_and_grads(theirs, arrays, g), 1e-12)


@both
def test_the_future_changes_nothing_bit_for_bit(implementation):
    q, k, v, g = random_arrays(*[(1, 600, 2, 8)] * 4, dtype=np.float32)
    f = jax.jit(partial(full_attention, causal=True, implementation=implementation))
    cut = 300
    changed = [x.at[:, cut:].add(1) for x in (q, k, v)]
    assert np.array_equal(f(q, k, v)[:, :cut], f(*changed)[:, :cut])
    grads = value_and_grads(f, (q, k, v), g.at[:, cut:].set(0))[1:]
    assert all(not np.asarray(grad[:, cut:]).any() for grad in grads)


@both
def test_what_is_added_to_all_logits_of_a_query_changes_nothing(implementation):
    """Invariant 2: one number a query by the bias, and q_i . u by a vector u that is added to every key."""
    with jax.enable_x64(True):
        q, k, v, g = random_arrays(*[(2, 300, 2, 8)] * 4)
        f = partial(full_attention, causal=True, implementation=implementation)
        expected = value_and_grads(f, (q, k, v), g)
        numbers, u = random_arrays((2, 2, 300, 1), (1, 1, 2, 8), seed=1)
        bias = jnp.broadcast_to(30 * numbers, (2, 2, 300, 300))
        assert_close(value_and_grads(partial(f, bias=bias), (q, k + 5 * u, v), g), expected, 1e-11)


@both
def test_the_order_of_tokens_is_not_seen(implementation):
    """Invariant 2: permuted queries, keys, values and padding give permuted outputs and gradients; any order of the
    keys gives the same."""
    with jax.enable_x64(True):
        q, k, v, g = random_arrays(*[(2, 300, 2, 8)] * 4)
        rng = np.random.default_rng(1)
        there, order, others = rng.random((2, 300)) > 0.2, rng.permutation(300), rng.permutation(300)
        f = lambda mask, *arrays: value_and_grads(
            partial(full_attention, padding_mask=jnp.asarray(mask), implementation=implementation),
            arrays[:3],
            arrays[3],
        )
        out, grad_q, grad_k, grad_v = f(there, q, k, v, g)
        moved = f(there[:, order], *(x[:, order] for x in (q, k, v, g)))
        assert_close(moved, [x[:, order] for x in (out, grad_q, grad_k, grad_v)], 1e-12)
        shuffled = f(there[:, others], q, k[:, others], v[:, others], g)
        assert_close(shuffled, [out, grad_q, grad_k[:, others], grad_v[:, others]], 1e-12)


@both
@pytest.mark.parametrize("length", [1, 257, 521])
def test_every_length(length, implementation):
    with jax.enable_x64(True):
        arrays, g = random_arrays(*[(1, length, 1, 4)] * 3), random_arrays((1, length, 1, 4), seed=1)[0]
        visible = np.tril(np.ones((length, length), bool))
        ours = partial(full_attention, causal=True, implementation=implementation)
        theirs = partial(dense_attention, visible=visible)
        assert_close(value_and_grads(ours, arrays, g), value_and_grads(theirs, arrays, g), 1e-12)


@both
def test_rows_that_see_nothing_give_zero_and_no_gradient(implementation):
    q, k, v, g = random_arrays(*[(2, 40, 2, 8)] * 4, dtype=np.float32)
    f = partial(full_attention, padding_mask=jnp.arange(40) < jnp.array([[40], [0]]), implementation=implementation)
    for x in value_and_grads(f, (q, k, v), g):
        assert np.isfinite(x).all() and np.asarray(x[0]).any() and not np.asarray(x[1]).any()


@both
def test_bf16_stays_finite_and_close(implementation):
    q, k, v, g = random_arrays(*[(1, 300, 2, 16)] * 4, dtype=jnp.bfloat16)
    f = partial(full_attention, causal=True, implementation=implementation)
    large = value_and_grads(f, tuple(x * 1000 for x in (q, k, v)), g)
    assert all(x.dtype == jnp.bfloat16 and np.isfinite(x.astype(np.float32)).all() for x in large)
    ours = value_and_grads(f, (q, k, v), g)
    with jax.enable_x64(True):
        exact = partial(dense_attention, visible=np.tril(np.ones((300, 300), bool)))
        theirs = value_and_grads(exact, tuple(x.astype(jnp.float64) for x in (q, k, v)), g.astype(jnp.float64))
    for a, b in zip(ours, theirs):
        a, b = np.asarray(a, np.float64), np.asarray(b)
        assert np.sqrt(((a - b) ** 2).mean() / (b**2).mean()) <= 2e-2


@pytest.mark.parametrize("implementation", ["blocked", "batched", None])
def test_decoding_equals_the_full_pass(implementation):
    q, k, v = random_arrays(*[(2, 40, 2, 8)] * 3, dtype=np.float32)
    whole = full_attention(q, k, v, causal=True)
    step = jax.jit(partial(full_attention, causal=True, implementation=implementation))
    for start, stop in ((0, 1), (7, 8), (8, 20), (3, 40)):
        part = step(q[:, start:stop], k, v, query_offset=jnp.int32(start))
        assert_close([part], [whole[:, start:stop]], 1e-6)


@both
def test_dropout_keeps_the_mean_and_both_passes_agree(implementation):
    with jax.enable_x64(True):
        rate, key = 0.25, jax.random.key(3)
        drop = partial(full_attention, dropout_rate=rate, dropout_key=key, implementation=implementation)
        q, v = jnp.zeros((1, 600, 2, 2)), jnp.ones((1, 600, 2, 2))
        # Equal weights: each row is the mean of 600 independent factors of mean 1 and variance rate / (1 - rate).
        rows = np.asarray(jax.jit(drop)(q, q, v)[..., 0])
        variance = rate / (1 - rate) / 600
        assert abs(rows.mean() - 1) < 5 * np.sqrt(variance / rows.size)
        assert abs(rows.var() / variance - 1) < 0.2

        q, k, v, g, *steps = random_arrays(*[(1, 600, 1, 4)] * 7)
        f = jax.jit(lambda *arrays: jnp.vdot(drop(*arrays), g))
        slope = sum(jnp.vdot(grad, step) for grad, step in zip(jax.grad(f, (0, 1, 2))(q, k, v), steps))
        ahead, behind = (f(*(x + sign * 1e-5 * step for x, step in zip((q, k, v), steps))) for sign in (1, -1))
        assert abs((ahead - behind) / 2e-5 - slope) < 1e-6 * abs(slope)


@both
@pytest.mark.parametrize("causal", [False, True])
def test_memory_is_linear(causal, implementation):
    def temporary_bytes(length):
        def step(q, k, v, g):
            return jax.vjp(partial(full_attention, causal=causal, implementation=implementation), q, k, v)[1](g)

        x = jax.ShapeDtypeStruct((1, length, 2, 32), jnp.float32)
        return jax.jit(step).lower(x, x, x, x).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(8192) <= 2.2**2 * temporary_bytes(2048)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"implementation": "fast"}, "implementation is 'fast'"),
        ({"dropout_rate": 0.1}, "dropout_key is None"),
        ({"dropout_rate": 1.0}, "dropout_rate is 1.0"),
        ({"segment_ids": jnp.zeros((1, 4), jnp.int32)}, "key_segment_ids is None with 4 queries and 6 keys"),
        ({"key_segment_ids": jnp.zeros((1, 6), jnp.int32)}, "without segment_ids"),
    ],
)
def test_mistakes_are_named(options, words):
    q, k = random_arrays((1, 4, 2, 8), (1, 6, 2, 8), dtype=np.float32)
    with pytest.raises(ValueError, match=words):
        full_attention(q, k, k, **options)


def test_heads_must_divide():
    q, k = random_arrays((1, 4, 3, 8), (1, 4, 2, 8), dtype=np.float32)
    with pytest.raises(ValueError, match="3 heads and k 2"):
        full_attention(q, k, k)
