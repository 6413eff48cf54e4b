"""Longformer attention: both forms against dense masks, and what its paper promises of windows and global tokens."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from effjax.ops import longformer_batched, longformer_blocked
from effjax.ops.full import full_attention
from effjax.ops.longformer import Band, Globals, Rules, longformer_attention
from tests.goldens.load import distance
from tests.ops.attention_oracle import dense_attention, random_arrays, value_and_grads

FORMS = {"blocked": longformer_blocked, "batched": longformer_batched}


def arrays(batch, length, heads, width=8, *, seed=0, count=6):
    return random_arrays(*[(batch, length, heads, width)] * count, seed=seed, dtype=np.float32)


def dense_mask(length, *, window, dilation=(1,), global_mask=None, causal=False, padding_mask=None, segment_ids=None):
    """Who sees whom: of local queries `[B, N, T, T]`, and of global ones."""
    ahead = np.arange(length) - np.arange(length)[:, None]
    allowed = np.broadcast_to(ahead <= 0 if causal else ahead == ahead, (1, 1, length, length))
    if padding_mask is not None:
        allowed = allowed & np.asarray(padding_mask)[:, None, None]
    if segment_ids is not None:
        allowed = allowed & (segment_ids[:, None, :, None] == segment_ids[:, None, None])
    seen = np.stack([(np.abs(ahead) <= window * d) & (ahead % d == 0) for d in dilation])[None]
    if global_mask is not None:
        seen = seen | np.asarray(global_mask)[:, None, None]
    return allowed & seen, allowed


def oracle(*args, **rules):
    local, everything = dense_mask(args[0].shape[1], **rules)
    out = dense_attention(*args[:3], local)
    if rules.get("global_mask") is None:
        return out
    return jnp.where(rules["global_mask"][:, :, None, None], dense_attention(*args[3:], everything), out)


def in_float64(fn, args, cotangent):
    with jax.enable_x64(True):
        wide = [np.asarray(x, np.float64) for x in (*args, cotangent)]
        return jax.device_get(value_and_grads(fn, wide[:-1], wide[-1]))


def assert_near(ours, theirs):
    """1e-5 of the largest gradient, since one key has none whatever its logit; the output of its own."""
    largest = max(np.abs(x).max() for x in theirs[1:])
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert np.abs(a - b).max() <= 1e-5 * (largest if i else np.abs(b).max())


def jitted(**options):
    return jax.jit(partial(longformer_attention, **options))


def marked(length, *rows):
    mask = np.zeros((len(rows), length), bool)
    for row, places in zip(mask, rows):
        row[list(places)] = True
    return mask


LENGTH = 300  # three blocks, the last one short
PADDING = np.arange(LENGTH) < np.array([[LENGTH], [LENGTH - 41]])
DOCUMENTS = np.stack([np.arange(LENGTH) // 50, np.arange(LENGTH) // 170])
CASES = {
    "causal": (dict(window=20, causal=True), 1),
    "dilated": (
        dict(
            window=40,
            dilation=(1, 3),
            causal=True,
            padding_mask=PADDING,
            segment_ids=DOCUMENTS,
            global_mask=marked(LENGTH, (0, 7, 299), (4,)),
        ),
        2,
    ),
    "both_sides": (dict(window=20, padding_mask=PADDING, global_mask=marked(LENGTH, (150,), (0, 1, 290))), 1),
    "packed": (dict(window=130, segment_ids=DOCUMENTS, global_mask=marked(LENGTH, (3, 60), (299,))), 1),
    "only_itself": (dict(window=0), 1),
}


# The laws have both forms at small lengths; here each rule in one form, and dilation by head in both, are quick enough.
QUICK = {("causal", "blocked"), ("dilated", "blocked"), ("dilated", "batched"), ("packed", "batched")}
PAIRS = [
    pytest.param(case, form, marks=[] if (case, form) in QUICK else [pytest.mark.slow], id=f"{case}-{form}")
    for case in CASES
    for form in FORMS
]


@pytest.mark.parametrize(("case", "implementation"), PAIRS)
def test_any_length_equals_a_dense_mask(case, implementation):
    rules, heads = CASES[case]
    has_global = "global_mask" in rules
    args = arrays(2, LENGTH, heads, count=6 if has_global else 3)
    cotangent = arrays(2, LENGTH, heads, seed=1, count=1)[0]
    keep = np.asarray(rules.get("padding_mask", np.ones((2, LENGTH), bool)))[:, :, None, None]
    given = {name: jnp.asarray(x) if isinstance(x, np.ndarray) else x for name, x in rules.items()}
    given |= dict(max_global=4 if has_global else 0, implementation=implementation)
    expected = in_float64(partial(oracle, **rules), args, cotangent * keep)
    ours = value_and_grads(partial(longformer_attention, **given), args, cotangent * keep)
    assert_near((ours[0] * keep, *ours[1:]), (expected[0] * keep, *expected[1:]))


ONE_WAY = [True, pytest.param(False, marks=pytest.mark.slow)]


@pytest.mark.parametrize("causal", ONE_WAY)
def test_wide_windows_are_looked_at_in_pieces(causal):
    """Slabs of 1,100 keys and more, of which the pieces beyond the ends are skipped; a window wider than the text."""
    length = 1300
    args, (cotangent,) = arrays(1, length, 1, count=3), arrays(1, length, 1, seed=1, count=1)
    for window in (600, 5000):
        rules = dict(window=window, causal=causal)
        attend = partial(longformer_attention, implementation="blocked", **rules)
        ours = value_and_grads(attend, args, cotangent)
        assert_near(ours, in_float64(partial(oracle, **rules), args, cotangent))


@pytest.mark.parametrize("causal", ONE_WAY)
def test_all_tokens_global_is_full_attention_by_global_projections(causal):
    q, k, v, *of_tokens = arrays(2, 33, 2)
    everyone = dict(global_mask=jnp.ones((2, 33), bool), max_global=33)
    attend = jitted(window=3, causal=causal, **everyone)
    exact = jax.jit(partial(full_attention, causal=causal))
    assert distance(attend(q, k, v, *of_tokens), exact(*of_tokens))[1] <= 1e-6
    assert distance(attend(q, k, v, q, k, v), exact(q, k, v))[1] <= 1e-6


@pytest.mark.parametrize("implementation", FORMS)
def test_weights_reach_as_far_as_the_window_and_count_global_tokens_once(implementation):
    """Values are unit vectors, so that outputs are the weights."""
    length, window, places = 40, 6, [5, 30]
    q, k = arrays(1, length, 1, width=length, count=2)
    v = jnp.eye(length)[None, :, None]
    local = jitted(window=window, implementation=implementation)(q, k, v)[0, :, 0]
    near = np.abs(np.arange(length) - np.arange(length)[:, None]) <= window
    np.testing.assert_array_equal(np.asarray(local) > 0, near)

    mask = jnp.asarray(marked(length, places))
    options = dict(window=window, global_mask=mask, max_global=2, implementation=implementation)
    weights = np.asarray(jitted(**options)(q, k, v, q, k, v))[0, :, 0]
    logits = np.asarray(q[0, :, 0] @ k[0, :, 0].T, np.float64) / np.sqrt(length)
    sees = near | np.isin(np.arange(length), places)  # a set: being near and global is no reason to count twice
    sees[places] = True
    expected = np.exp(logits) * sees
    np.testing.assert_allclose(weights, expected / expected.sum(-1, keepdims=True), rtol=1e-5, atol=1e-7)


def test_dilation_is_no_dilation_on_interleaved_sequences():
    length, step = 60, 4
    args = arrays(2, length, 2, count=3)
    dilated = jitted(window=5, dilation=step, causal=True)(*args)
    plain = jitted(window=5, causal=True)
    for residue in range(step):
        assert distance(dilated[:, residue::step], plain(*(x[:, residue::step] for x in args)))[1] <= 1e-6


@pytest.mark.parametrize("causal", ONE_WAY)
def test_layers_see_their_number_times_window_times_dilation(causal):
    layers, window, step, length = 3, 4, 2, 64

    def centre(x):
        for _ in range(layers):
            x = longformer_attention(x, x, x, window=window, dilation=step, causal=causal)
        return jnp.sum(x[0, length // 2])

    (x,) = arrays(1, length, 1, count=1)
    seen = np.flatnonzero(np.abs(np.asarray(jax.jit(jax.grad(centre))(x)))[0, :, 0].max(-1))
    far = layers * window * step
    assert seen.tolist() == list(range(length // 2 - far, length // 2 + (0 if causal else far) + 1, step))


@pytest.mark.parametrize("form", ["blocked", pytest.param("batched", marks=pytest.mark.slow)])
def test_dropout_has_the_gradient_of_what_it_computes(form):
    """The backward pass by hand against autodiff of the forward pass, under one dropout mask."""
    length = 200
    q, k, v = arrays(1, length, 2, count=3)
    band, key = Band(24, 24, causal=False, dropout_rate=0.4), jax.random.key(3)
    zeros, place = jnp.zeros((1, length), jnp.int32), jnp.array([[9, 70]])
    rules = Rules(zeros, zeros, jnp.arange(length)[None], jnp.zeros((1, 2), jnp.int32), place, key)
    tokens = Globals(k[:, jnp.array([9, 70])], v[:, jnp.array([9, 70])])
    (g,) = arrays(1, length, 2, seed=1, count=1)

    @jax.jit
    def both(q, k, v, tokens, g):
        run = lambda q, k, v, tokens: FORMS[form].forward(band, q, k, v, tokens, rules)[0]
        out, pull = jax.vjp(run, q, k, v, tokens)
        lse = FORMS[form].forward(band, q, k, v, tokens, rules)[1]
        return out, pull(g), FORMS[form].backward(band, q, k, v, tokens, rules, out, lse, g)

    out, expected, grads = both(q, k, v, tokens, g)
    for mine, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        assert distance(mine, theirs)[1] <= 1e-5
    plain = FORMS[form].forward(Band(24, 24, causal=False, dropout_rate=0.0), q, k, v, tokens, rules)[0]
    assert 0.3 < float(jnp.std(out - plain) / jnp.std(plain)) < 3


@pytest.mark.slow
def test_eight_devices_equal_one():
    """Batch, length and heads split over devices, in the form that is made for it."""
    mesh = jax.make_mesh((2, 2, 2), ("data", "sequence", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    args, (cotangent,) = arrays(2, 64, 2), arrays(2, 64, 2, seed=1, count=1)
    mask = jnp.asarray(marked(64, (0, 40), (9,)))
    attend = partial(longformer_attention, window=20, causal=True, max_global=2, implementation="batched")
    expected = value_and_grads(partial(attend, global_mask=mask), args, cotangent)
    split = jax.device_put((*args, cotangent), jax.NamedSharding(mesh, P("data", "sequence", "tensor")))
    mask = jax.device_put(mask, jax.NamedSharding(mesh, P("data", "sequence")))
    ours = value_and_grads(partial(attend, global_mask=mask), split[:-1], split[-1])
    assert_near(ours, expected)


def test_too_many_global_tokens_do_not_go_unnoticed():
    args = arrays(2, 20, 1)
    mask = jnp.asarray(marked(20, (1, 2, 3), (4,)))
    out = jitted(window=2, global_mask=mask, max_global=2)(*args)
    assert jnp.isnan(out[0]).all() and jnp.isfinite(out[1]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(window=-1), "window is -1: it must be at least 0"),
        (dict(window=2, dilation=0), "dilation is 0 with 2 heads"),
        (dict(window=2, dilation=(1, 2, 3)), r"dilation is \(1, 2, 3\) with 2 heads"),
        (dict(window=2, max_global=3), "max_global is 3: it must be at least 1 with a global_mask, and 0 without"),
        (dict(window=2, dropout_rate=0.1), "dropout needs a key"),
        (dict(window=2, implementation="flash"), "implementation is 'flash'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        longformer_attention(*arrays(1, 4, 2, count=3), **options)


def test_global_tokens_need_projections_of_their_own():
    mask = jnp.ones((1, 4), bool)
    with pytest.raises(ValueError, match="q_global, k_global and v_global must be given"):
        longformer_attention(*arrays(1, 4, 2, count=3), window=2, global_mask=mask, max_global=4)
