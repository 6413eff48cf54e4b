"""Adaptive span against loops in float64, against the original, and what its equations promise."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.accounting.flops import count_flops
from effjax.ops.adaptive_span import adaptive_span_attention
from tests.goldens.load import distance, load
from tests.ops.adaptive_span_oracle import by_loops, dense, soft_mask
from tests.ops.attention_oracle import assert_close, random_arrays, value_and_grads

HEADS, WIDTH = 2, 4
SPANS = np.array([2.4, 7.7])
SIZES = dict(ramp=3, max_span=16)


def arrays(length, keys=None, *, max_span=16, batch=2, seed=0, dtype=np.float64):
    """q, k, v, rel_embedding, cotangent."""
    rows, columns = (batch, length, HEADS, WIDTH), (batch, keys or length, HEADS, WIDTH)
    return random_arrays(rows, columns, columns, (max_span, WIDTH), rows, dtype=dtype, seed=seed)


def attend(q, k, v, span, rel_embedding, **options):
    return adaptive_span_attention(q, k, v, span=span, rel_embedding=rel_embedding, **{**SIZES, **options})


both = pytest.mark.parametrize("implementation", ["blocked", "batched"])
QUICK = ("memory shorter than the span", "one query")
CASES = {
    "from the start": (19, 19, {}),
    "memory shorter than the span": (5, 11, {}),
    "memory longer than the span": (6, 30, {}),
    "one query": (1, 21, {}),
    "queries before the last key": (4, 12, dict(query_offset=3)),
}


@both
@pytest.mark.parametrize("per_query", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK), id=name) for name in CASES]
)
def test_equals_loops_in_float64(name, per_query, implementation):
    length, keys, options = CASES[name]
    with jax.enable_x64(True):
        q, k, v, p, g = arrays(length, keys)
        span = jnp.asarray(SPANS)
        if per_query:
            span = jnp.asarray(np.random.default_rng(3).uniform(0, 16, (2, length, HEADS)))
        offset = options.get("query_offset")
        expected = by_loops(q, k, v, span=span, rel_embedding=p, offset=offset, **SIZES)
        theirs = value_and_grads(partial(dense, offset=offset, **SIZES), (q, k, v, span, p), g)
        assert_close([theirs[0]], [expected], 1e-13)
        ours = partial(attend, implementation=implementation, **options)
        assert_close(value_and_grads(ours, (q, k, v, span, p), g), theirs, 1e-12)


@both
def test_documents_and_padding_are_kept_apart(implementation):
    length = 17
    with jax.enable_x64(True):
        q, k, v, p, g = arrays(length)
        segments = np.sort(np.random.default_rng(1).integers(0, 3, (2, length)))
        padding = np.arange(length) < np.array([[length], [11]])
        see = lambda b, t, j: segments[b, t] == segments[b, j] and padding[b, j]
        expected = by_loops(q, k, v, span=SPANS, rel_embedding=p, visible=see, **SIZES)
        rules = dict(segment_ids=jnp.asarray(segments), padding_mask=jnp.asarray(padding))
        visible = ((segments[:, :, None] == segments[:, None]) & padding[:, None])[:, None]
        ours = partial(attend, implementation=implementation, **rules)
        ours = value_and_grads(ours, (q, k, v, jnp.asarray(SPANS), p), g)
        theirs = value_and_grads(partial(dense, visible=visible, **SIZES), (q, k, v, jnp.asarray(SPANS), p), g)
        assert_close([ours[0]], [expected], 1e-13)
        assert_close(ours, theirs, 1e-12)


@pytest.mark.slow
def test_zero_cache_attends_to_the_rows_before_the_start():
    with jax.enable_x64(True):
        q, k, v, p, g = arrays(9)
        zeros = jnp.zeros((2, 16, HEADS, WIDTH))
        span = jnp.asarray(SPANS)
        padded = lambda q, k, v, span, p: attend(
            q, jnp.concatenate([zeros, k], 1), jnp.concatenate([zeros, v], 1), span, p
        )
        diluted = value_and_grads(partial(attend, zero_cache=True), (q, k, v, span, p), g)
        assert_close(diluted, value_and_grads(padded, (q, k, v, span, p), g), 1e-12)
        assert not np.allclose(diluted[0], attend(q, k, v, span, p))
        masked = np.arange(9) < 5
        hidden = attend(q, k, v, span, p, zero_cache=True, padding_mask=jnp.asarray(np.stack([masked] * 2)))
        np.testing.assert_allclose(hidden[:, :5], diluted[0][:, :5], rtol=1e-12)


def test_invariant_1_full_spans_are_fixed_span_attention():
    with jax.enable_x64(True):
        q, k, v, p, _ = arrays(24)
        ours = attend(q, k, v, jnp.full(HEADS, 16.0), p)
        fixed = dense(q, k, v, 10.0**6, p, **SIZES)
        np.testing.assert_allclose(ours, fixed, rtol=1e-10)


@pytest.mark.parametrize("z", [pytest.param(0, marks=pytest.mark.slow), 5])
def test_invariant_2_the_mask_is_the_originals_vector(z):
    """Zero logits and one-hot values read the mask back."""
    ramp, size = 4, 12
    q, p = jnp.zeros((1, 1, 1, size)), jnp.zeros((size, size))
    k, v = jnp.zeros((1, size + 1, 1, size)), jnp.eye(size + 1, size)[None, :, None]
    span = jnp.array([float(z)])
    weights = adaptive_span_attention(q, k, v, span=span, ramp=ramp, max_span=size, rel_embedding=p)[0, 0, 0]
    expected = np.zeros(size)  # oldest first
    expected[size - z - ramp :] = [*np.arange(1, ramp) / ramp, *[1.0] * (z + 1)]
    assert (expected == 1).sum() == z + 1
    np.testing.assert_allclose(weights, expected / expected.sum(), rtol=1e-6)
    assert [soft_mask(size - i, z, ramp) for i in range(size)] == expected.tolist()


@pytest.mark.parametrize("spans", [pytest.param((0.0, 0.0), marks=pytest.mark.slow), (3.2, 4.99)])
def test_invariant_3_trimming_changes_nothing(spans):
    q, k, v, p, g = arrays(40, dtype=np.float32)
    span = jnp.array(spans)
    whole = value_and_grads(attend, (q, k, v, span, p), g)
    trimmed = value_and_grads(partial(attend, visited=8), (q, k, v, span, p), g)
    assert_close(trimmed, whole, 1e-6)


def test_invariant_4_weights_sum_to_one_and_spans_have_the_slope_of_the_loss():
    with jax.enable_x64(True):
        q, k, v, p, g = arrays(20)
        ones = attend(q, k, jnp.ones_like(v), jnp.asarray(SPANS), p)
        np.testing.assert_allclose(ones[:, 1:], 1, atol=1e-6)
        loss = jax.jit(lambda span: jnp.vdot(attend(q, k, v, span, p), g))
        slope = jax.grad(loss)(jnp.asarray(SPANS))
        for head in range(HEADS):
            step = 1e-6 * np.eye(HEADS)[head]
            finite = (loss(jnp.asarray(SPANS + step)) - loss(jnp.asarray(SPANS - step))) / 2e-6
            assert abs(finite - slope[head]) < 1e-6 * abs(slope[head])
        assert not np.asarray(jax.grad(loss)(jnp.full(HEADS, 40.0))).any()  # every key at weight 1


def test_invariant_6_a_query_is_no_key_of_itself():
    q, k, v, p, _ = arrays(20, dtype=np.float32)
    run = jax.jit(lambda k, v: attend(q, k, v, jnp.array(SPANS), p))
    before, after = run(k, v), run(k.at[:, 7].add(3), v.at[:, 7].add(3))
    np.testing.assert_array_equal(before[:, :8], after[:, :8])
    assert not np.array_equal(before[:, 8:], after[:, 8:])
    assert not np.asarray(before[:, 0]).any()  # nothing stands before the first token


def test_compute_follows_the_visited_distances():
    q = jax.ShapeDtypeStruct((1, 2048, 2, 16), jnp.float32)
    p, span = jax.ShapeDtypeStruct((4096, 16), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32)

    def flops(visited):
        run = lambda q, p, span: attend(q, q, q, span, p, max_span=4096, visited=visited).sum()
        return count_flops(jax.grad(run, (0, 1, 2)), q, p, span, platform="cpu")

    assert flops(256) < 0.4 * flops(None)


def test_the_oracles_mask_is_the_originals():
    golden = load("adaptive_span")
    spans = 24 * golden["inputs"]["current_val"].ravel()
    mask = [[soft_mask(x, z, 4) for x in range(24, 0, -1)] for z in spans]
    np.testing.assert_allclose(mask, golden["outputs"]["mask"][0, :, 0], atol=1e-6)


def original_layer(h, cache, key_pe, weights):
    """The attention of the original from its own parameters, and what its layer of persistent memory adds: a norm."""
    project = lambda x, name: (x @ weights[f"attn.proj_{name}.weight"].T).reshape(*x.shape[:2], 2, 8)
    span, persistent = jnp.full(2, 24.0), None
    if "attn.attn.adaptive_span._mask.current_val" in weights:
        span = 24 * weights["attn.attn.adaptive_span._mask.current_val"].ravel()
    if "attn.attn.persistent_memory.key" in weights:  # stored small, scaled up when used
        keys, values = (weights[f"attn.attn.persistent_memory.{name}"] for name in ("key", "val"))
        persistent = 8**0.5 * keys.transpose(2, 0, 1), 6**0.5 * values.transpose(1, 0, 2)
    rows = jnp.concatenate([cache, h], 1)
    q, k, v = project(h, "query"), project(rows, "key"), project(rows, "val")
    p, sizes = key_pe[0].T[::-1], dict(ramp=4, max_span=24)
    y = adaptive_span_attention(q, k, v, span=span, rel_embedding=p, persistent=persistent, **sizes)
    y = y.reshape(h.shape) @ weights["attn.proj_out.weight"].T
    if "norm1.weight" not in weights:
        return y
    x = h + y
    x = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * weights["norm1.weight"] + weights["norm1.bias"]


QUICK_VARIANTS = ("span_memory_layer", "span_attention")
SLOW_VARIANTS = ("span_memory_attention", "plain_attention")


@pytest.mark.parametrize(
    "variant", [*QUICK_VARIANTS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_VARIANTS)]
)
def test_equals_the_original_with_gradients(variant):
    """Its other layers, which have no persistent memory: tests/layers/test_adaptive_span.py."""
    golden = load("adaptive_span")
    inputs, expected = golden["inputs"], golden["weight_grads"][variant]
    weights = {name: jnp.asarray(golden["weights"][variant.rsplit("_", 1)[0]][name]) for name in expected}
    arrays = *(jnp.asarray(inputs[name]) for name in ("h", "cache", "key_pe")), weights
    out, *grads, weight_grads = value_and_grads(original_layer, arrays, jnp.asarray(inputs["cotangent"][variant]))
    assert distance(out, golden["outputs"][variant]["out"])[1] <= 1e-5
    for name, grad in zip(("h", "cache", "key_pe"), grads):
        assert distance(grad, golden["grads"][variant][name])[1] <= 1e-5
    for name, grad in weight_grads.items():
        assert distance(grad, expected[name])[1] <= 1e-5, name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(max_span=0), "max_span=0"),
        (dict(ramp=0), "ramp=0"),
        (dict(visited=17), "visited=17; 1 to max_span=16"),
        (dict(max_span=15), "rel_embedding has 16 rows; max_span=15"),
        (dict(zero_cache=True, segment_ids=jnp.zeros((1, 4), int)), "zero_cache=True with segment_ids"),
    ],
)
def test_mistakes_are_named(options, words):
    q, k, v, p, _ = arrays(4, batch=1, dtype=np.float32)
    with pytest.raises(ValueError, match=words):
        attend(q, k, v, jnp.zeros(HEADS), p, **options)
