"""Layers of static patterns: what they see, how they stream, and which settings they refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.layers import FullAttention, sparse, window
from effjax.layers.sparse import BigBirdAttention, FixedAttention, LogSparseAttention, StridedAttention
from effjax.layers.window import WindowAttention

D_MODEL, LENGTH = 16, 45
CAUSAL = {
    "strided": functools.partial(StridedAttention, stride=6),
    "strided, heads split": functools.partial(StridedAttention, stride=6, form="split"),
    "strided, narrow keys": functools.partial(StridedAttention, stride=6, form="split", qk_head_dim=4),
    "fixed": functools.partial(FixedAttention, block=8, summary=2),
    "fixed, summary only": functools.partial(FixedAttention, block=8, summary=2, form="far"),
    "log-sparse": functools.partial(LogSparseAttention, local=2),
    "convolved log-sparse": functools.partial(LogSparseAttention, restart=12, qk_kernel=4),
    "big bird": functools.partial(BigBirdAttention, block=4, n_random=1),
    "window": functools.partial(WindowAttention, window=5),
    "window of oneself": functools.partial(WindowAttention, window=1, sinks=1),
    "sinks": functools.partial(WindowAttention, window=5, sinks=3),
    "window with linear biases": functools.partial(WindowAttention, window=5, sinks=1, alibi=True),
    "full with linear biases": functools.partial(FullAttention, alibi=True),
}


@functools.cache
def build(name, **kwargs):
    layer = CAUSAL[name](d_model=D_MODEL, n_heads=2, head_dim=8, **kwargs)
    return layer, jax.jit(layer.init)(jax.random.key(0), jnp.zeros((1, 3, D_MODEL)))


def tokens(length=LENGTH, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(2, length, D_MODEL)), jnp.float32)


@functools.cache
def influence(name):
    """Which inputs each output depends on, bool [T, T], from the gradient of random sums of outputs."""
    layer, params = build(name)
    jacobian = jax.jit(jax.jacrev(lambda x: layer.apply(params, x)[0][0].sum(-1)))(tokens(30)[:1])
    return np.abs(jacobian[:, 0]).max(-1) > 0


@pytest.mark.parametrize("name", ["strided", "fixed", "log-sparse", "sinks", "big bird"])
def test_outputs_depend_on_what_the_pattern_allows(name):
    layer, _ = build(name)
    allowed = np.any([layer.pattern.dense(30, head) for head in range(2)], axis=0)
    assert np.array_equal(influence(name) | np.eye(30, dtype=bool), allowed | np.eye(30, dtype=bool))


def test_the_local_heads_reach_as_far_as_the_paper_says_or_as_its_code():
    for inclusive, reach in ((True, 6), (False, 5)):  # the paper's {i - l, ..., i}; the code's last l positions
        layer = StridedAttention(D_MODEL, 2, 8, stride=6, form="split", inclusive=inclusive)
        assert np.flatnonzero(layer.pattern.dense(30, 0)[20]).tolist() == list(range(20 - reach, 21))
        assert np.flatnonzero(layer.pattern.dense(30, 1)[20]).tolist() == [2, 8, 14, 20]
    assert StridedAttention(D_MODEL, 2, 8).inclusive


def test_narrow_keys_are_the_equation():
    """Logits over the root of the width that queries and keys have, values as wide as ever; the cache is as narrow."""
    layer, params = build("strided, narrow keys")
    weights = {name: np.asarray(leaf["kernel"], np.float64) for name, leaf in params["params"].items()}
    assert {name: kernel.shape for name, kernel in weights.items() if name != "out"} == {
        "query": (D_MODEL, 2, 4),
        "key": (D_MODEL, 2, 4),
        "value": (D_MODEL, 2, 8),
    }
    x = tokens(20)
    q, k, v = (
        np.einsum("btd,dnh->bnth", np.asarray(x, np.float64), weights[name]) for name in ("query", "key", "value")
    )
    visible = np.stack([layer.pattern.dense(20, head) for head in range(2)])
    logits = np.where(visible, q @ k.swapaxes(2, 3) / 2, -np.inf)
    chances = np.exp(logits - logits.max(-1, keepdims=True))
    mixed = chances / chances.sum(-1, keepdims=True) @ v
    expected = np.einsum("bnth,nhd->btd", mixed, weights["out"])
    np.testing.assert_allclose(jax.jit(layer.apply)(params, x)[0], expected, atol=1e-5)
    state = layer.initial_state(3, max_length=20)
    assert state.key.shape == (3, 20, 2, 4) and state.value.shape == (3, 20, 2, 8)


def test_convolution_widens_what_is_seen_and_stays_causal():
    plain = LogSparseAttention(D_MODEL, 2, 8, restart=12).pattern.dense(30)
    wider = np.any([np.pad(plain, ((0, 0), (0, 3)))[:, shift : shift + 30] for shift in range(4)], axis=0)
    own = np.tri(30, dtype=bool) & ~np.tri(30, k=-4, dtype=bool)
    assert np.array_equal(influence("convolved log-sparse"), wider | own)


def test_a_kernel_of_one_is_a_linear_projection():
    """Canonical attention is the case k = 1; a longer kernel whose earlier taps are 0 computes the same."""
    one, params = build("log-sparse")
    four = one.clone(qk_kernel=4)
    longer = jax.tree.map(jnp.zeros_like, jax.jit(four.init)(jax.random.key(0), tokens(3))["params"])
    for name in ("query", "key"):
        longer[name]["kernel"] = longer[name]["kernel"].at[-1].set(params["params"][name]["kernel"])
    longer |= {name: params["params"][name] for name in ("value", "out")}
    y = jax.jit(one.apply)(params, tokens())[0]
    np.testing.assert_allclose(jax.jit(four.apply)({"params": longer}, tokens())[0], y, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        StridedAttention(D_MODEL, 2, 8, stride=LENGTH),
        FixedAttention(D_MODEL, 2, 8, block=LENGTH, summary=1),
        LogSparseAttention(D_MODEL, 2, 8, local=LENGTH),
        WindowAttention(D_MODEL, 2, 8, window=LENGTH),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_pattern_that_covers_the_length_is_full_attention(layer):
    _, params = build("strided")  # all of them have the same parameters
    expected = jax.jit(FullAttention(D_MODEL, 2, 8).apply)(params, tokens())[0]
    np.testing.assert_allclose(jax.jit(layer.apply)(params, tokens())[0], expected, atol=1e-5)


def stream(layer, params, x, pieces):
    apply, outputs, start = jax.jit(layer.apply), [], 0
    state = layer.initial_state(x.shape[0], max_length=x.shape[1])
    for length in pieces:
        y, state = apply(params, x[:, start : start + length], state)
        outputs.append(y)
        start += length
    return np.concatenate(outputs, axis=1)


QUICK = ("fixed", "strided, narrow keys", "convolved log-sparse", "window with linear biases")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in CAUSAL]
)
def test_streams_of_long_and_short_pieces_equal_one_pass(name, monkeypatch):
    monkeypatch.setattr(sparse, "FEW_QUERIES", 4)  # the long pieces take the form for many queries
    monkeypatch.setattr(window, "PIECE", 8)
    layer, params = build(name)
    whole = jax.jit(layer.apply)(params, tokens())[0]
    np.testing.assert_allclose(stream(layer, params, tokens(), [20, 1, 1, 1, 1, 1, 20]), whole, atol=1e-5)


def test_linear_biases_are_the_equation():
    """Keys of one value leave the bias alone to decide: weights are powers of the heads' slopes by distance."""
    full, params = build("full with linear biases")
    params = jax.tree.map(jnp.asarray, params)
    params["params"]["query"]["kernel"] = jnp.zeros_like(params["params"]["query"]["kernel"])
    x = tokens(9)
    values = np.einsum("btd,dnh->btnh", x, params["params"]["value"]["kernel"])
    time = np.arange(9)
    logits = -(2.0 ** -np.array([4, 8]))[:, None, None] * (time[:, None] - time)  # slopes 2^(-8 (n + 1) / 2)
    weights = np.exp(np.where(time[:, None] >= time, logits, -np.inf))
    mixed = np.einsum("nts,bsnh->btnh", weights / weights.sum(-1, keepdims=True), values)
    expected = np.einsum("btnh,nhd->btd", mixed, params["params"]["out"]["kernel"])
    np.testing.assert_allclose(full.apply(params, x)[0], expected, atol=1e-5)
    wide = WindowAttention(D_MODEL, 2, 8, window=9, alibi=True)
    np.testing.assert_allclose(wide.apply(params, x)[0], expected, atol=1e-5)


def test_a_window_keeps_no_more_than_it_sees():
    layer, _ = build("sinks")
    shapes = {leaf.shape for leaf in jax.tree.leaves(layer.initial_state(1, max_length=10**6))}
    assert shapes == {(1, 3 + 5 - 1, 2, 8), (1, 3 + 5 - 1), ()}


def test_dropout_of_a_stream_differs_from_piece_to_piece(monkeypatch):
    monkeypatch.setattr(window, "PIECE", 8)
    layer, params = build("window", dropout_rate=0.5)
    same = jnp.broadcast_to(tokens()[:, :1], (2, 40, D_MODEL))
    state = layer.initial_state(2, max_length=40)
    run = jax.jit(
        lambda state: layer.apply(params, same, state, deterministic=False, rngs={"dropout": jax.random.key(1)})
    )
    y = np.asarray(run(state)[0])
    assert np.isfinite(y).all()
    assert not np.array_equal(y[:, 8:16], y[:, 16:24])


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda **sizes: StridedAttention(stride=0, **sizes), "stride is 0"),
        (lambda **sizes: StridedAttention(form="both", **sizes), "form is 'both'"),
        (lambda **sizes: StridedAttention(causal=False, **sizes), "causal=False; this pattern looks back only"),
        (lambda **sizes: StridedAttention(qk_head_dim=9, **sizes), "qk_head_dim=9; 1 to head_dim=8, or 0"),
        (lambda **sizes: FixedAttention(block=8, summary=9, **sizes), "summary is 9"),
        (lambda **sizes: LogSparseAttention(local=0, **sizes), "local is 0"),
        (lambda **sizes: LogSparseAttention(qk_kernel=0, **sizes), "qk_kernel=0; 1 or more"),
        (lambda **sizes: BigBirdAttention(n_window=2, **sizes), "n_window is 2"),
        (lambda **sizes: BigBirdAttention(causal=False, among=1, **sizes), "among is 1"),
        (lambda **sizes: WindowAttention(window=0, **sizes), "window is 0"),
        (lambda **sizes: WindowAttention(sinks=-1, **sizes), "sinks is -1"),
    ],
)
def test_mistakes_are_named_at_construction(make, words):
    with pytest.raises(ValueError, match=words):
        make(d_model=16, n_heads=2, head_dim=8)


@pytest.mark.parametrize("global_tokens", [0, 1])
def test_fixed_attention_to_both_sides_is_dense_attention_under_its_rule(global_tokens):
    layer = FixedAttention(
        d_model=16, n_heads=2, head_dim=8, block=5, summary=2, causal=False, global_tokens=global_tokens
    )
    x = jax.random.normal(jax.random.key(0), (1, 23, 16))
    params = layer.init(jax.random.key(1), x)
    i, j = np.ogrid[:23, :23]
    mask = (i // 5 == j // 5) | (j % 5 >= 3) | (i < global_tokens) | (j < global_tokens)
    q, k, v = (jnp.einsum("btd,dnh->btnh", x, params["params"][name]["kernel"]) for name in ("query", "key", "value"))
    logits = jnp.einsum("btnh,bsnh->bnts", q, k) / 8**0.5
    y = jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(jnp.where(mask, logits, -jnp.inf)), v)
    expected = jnp.einsum("btnh,nhd->btd", y, params["params"]["out"]["kernel"])
    np.testing.assert_allclose(layer.apply(params, x)[0], expected, rtol=1e-5, atol=1e-6)


def test_global_tokens_of_fixed_attention_need_both_sides():
    with pytest.raises(ValueError, match="global_tokens=1 with causal=True"):
        FixedAttention(d_model=16, n_heads=2, head_dim=8, global_tokens=1)
