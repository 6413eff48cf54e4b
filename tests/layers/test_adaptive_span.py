"""The layer: which sizes its spans ask for, that trimming shows in nothing, and what becomes of its parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.layers import AdaptiveSpanAttention, FeedForward
from effjax.models.block import Period
from effjax.models.stack import Stack
from tests.goldens.load import distance, load
from tests.laws.measure import relative_rms

D_MODEL, SPAN, RAMP = 16, 512, 16
SHARES = jnp.array([0.025, 0.1])  # 12.8 and 51.2 tokens: the widest window ends before 68


@functools.cache
def make(**attributes):
    layer = AdaptiveSpanAttention(D_MODEL, 2, 8, max_span=SPAN, ramp=RAMP, **attributes)
    params = jax.jit(layer.init)(jax.random.key(0), jnp.zeros((1, 4, D_MODEL)))["params"]
    return layer, params | ({} if layer.dynamic else {"share": SHARES})


def tokens(length, batch=1):
    return jnp.asarray(np.random.default_rng(0).normal(size=(batch, length, D_MODEL)), jnp.float32)


def visited(layer, shares, **options):
    """What adapt asks for, given shares of one layer or of several."""
    return layer.adapt({"share": np.asarray(shares, np.float32)}, **options).get("visited")


def test_the_visited_context_follows_the_widest_window_in_blocks():
    layer, _ = make()
    assert visited(layer, [0, 0]) == 64 + 64  # 16 + 1, and a block of room
    assert visited(layer, [0, 47 / SPAN]) == 128
    assert visited(layer, [0, 48 / SPAN]) == 128 + 64  # a window of 64 touches the 65th distance
    assert visited(layer, [[0, 0], [100 / SPAN, 0.01]]) == 128 + 64  # the greatest of all layers
    assert visited(layer, [1, 1]) is None and visited(layer, [0.8, 0]) is None
    assert visited(layer, [0, 47 / SPAN], frozen=True) == 64  # no room where nothing grows
    odd = layer.clone(max_span=100)  # blocks count from the far end, as in the original
    assert visited(odd, [0, 0], frozen=True) == 36


def test_hysteresis_keeps_what_is_neither_too_small_nor_twice_too_large():
    layer = AdaptiveSpanAttention(D_MODEL, 2, 8, max_span=8192, ramp=32, visited=1024 + 256)
    widths = {width: visited(layer, [(width - 32) / 8192] * 2) for width in (32, 840, 1000, 1270, 1290)}
    assert widths == {32: 128, 840: None, 1000: None, 1270: 1280 + 320, 1290: 1344 + 320}
    assert visited(layer.clone(visited=None), [1000 / 8192] * 2) == 1088 + 256


def test_trimmed_equals_whole_with_state_and_gradients():
    layer, params = make()
    trimmed = layer.clone(**layer.adapt(params))
    assert trimmed.visited == 192 < SPAN and bool(trimmed.fits(params))
    x, past = tokens(24), tokens(600)

    @functools.partial(jax.jit, static_argnums=0)
    def run(layer, params):
        state = layer.initial_state(1, max_length=1)
        _, state = layer.apply({"params": params}, past, state)

        def loss(params):
            y, after = layer.apply({"params": params}, x, state)
            return jnp.sum(jnp.sin(y)), (y, after)

        return jax.value_and_grad(loss, has_aux=True)(params)

    assert relative_rms(run(trimmed, params), run(layer, params)) <= 1e-5


def test_a_window_beyond_what_is_visited_does_not_go_unnoticed():
    layer, params = make()
    narrow = layer.clone(visited=64)
    y, _ = jax.jit(narrow.apply)({"params": params}, tokens(5))
    assert np.isnan(y).all() and not bool(narrow.fits(params))
    small = params | {"share": SHARES / 2}
    y, _ = jax.jit(narrow.apply)({"params": small}, tokens(5))
    assert np.isfinite(y).all() and bool(narrow.fits(small))


def test_invariant_5_frozen_streams_keep_keys_and_values_of_what_is_visited():
    layer, params = make()
    frozen = layer.clone(**layer.adapt(params, frozen=True))
    assert frozen.visited == 128 and frozen.adapt(params) == {}
    x = tokens(300)
    whole, _ = jax.jit(layer.apply)({"params": params}, x)
    state, pieces = frozen.initial_state(1, max_length=1), []
    assert [row.shape for row in state.rows] == [(1, 128, 2, 8)] * 2
    for start in range(0, 300, 60):
        y, state = jax.jit(frozen.apply)({"params": params}, x[:, start : start + 60], state)
        pieces.append(y)
    assert relative_rms(np.concatenate(pieces, 1), whole) <= 1e-5


def test_zero_cache_dilutes_the_start_in_one_pass_and_in_pieces():
    layer, params = make()
    original = layer.clone(zero_cache=True)
    x = tokens(8)
    whole, _ = jax.jit(original.apply)({"params": params}, x)
    y, _ = jax.jit(original.apply)({"params": params}, x, original.initial_state(1, max_length=1))
    assert relative_rms(y, whole) <= 1e-5
    assert relative_rms(jax.jit(layer.apply)({"params": params}, x)[0], whole) > 0.1
    with pytest.raises(ValueError, match="segment_ids with zero_cache=True"):
        original.apply({"params": params}, x, segment_ids=jnp.zeros((1, 8), jnp.int32))


def test_invariant_7_penalty_and_bounds():
    layer, _ = make(span_loss=0.5)
    shares = jnp.array([0.25, -0.5])
    assert float(layer.penalty({"share": shares})) == 0.5 * SPAN * -0.125
    params = layer.after_update({"share": shares, "out": 1}, step=0, key=jax.random.key(0))
    assert params["share"].tolist() == [0.25, 0] and params["out"] == 1
    assert {k: float(v) for k, v in layer.metrics(params).items()} == {"mean_span": 64, "max_span": 128}


SPANS = "attn.attn.adaptive_span._mask.current_val"


@pytest.mark.parametrize("variant", ["span", "span_memory"])
def test_the_penalty_is_the_originals(variant):
    golden = load("adaptive_span")
    shares = jnp.asarray(golden["weights"][variant][SPANS].ravel())
    layer = AdaptiveSpanAttention(16, 2, 8, max_span=24, ramp=4, span_loss=0.01)
    np.testing.assert_allclose(layer.penalty({"share": shares}), golden["outputs"][f"{variant}_loss"], rtol=1e-6)


def original_block(weights):
    """Parameters of a stack of one post-norm block from those of the original's layer."""
    norm = lambda name: {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}
    linear = lambda name: {"kernel": weights[f"ff.{name}.weight"].T, "bias": weights[f"ff.{name}.bias"]}
    heads = lambda name: {"kernel": weights[f"attn.proj_{name}.weight"].T.reshape(16, 2, 8)}
    mixer = {ours: heads(theirs) for ours, theirs in (("query", "query"), ("key", "key"), ("value", "val"))}
    mixer["out"] = {"kernel": weights["attn.proj_out.weight"].T.reshape(2, 8, 16)}
    mixer["share"] = weights[SPANS].ravel() if SPANS in weights else jnp.ones(2)
    period = {
        "mixing_0": {"mixer": mixer, "norm": norm("norm1")},
        "feeding_0": {"feed_forward": {"inner": linear("fc1"), "outer": linear("fc2")}, "norm": norm("norm2")},
    }
    return {"params": {"period": jax.tree.map(lambda leaf: leaf[None], period)}}


@functools.cache
def original_layer(variant):
    """The golden, a stack of one block, the weights that the original's layer has, and its inputs."""
    golden = load("adaptive_span")
    mixer = functools.partial(AdaptiveSpanAttention, 16, 2, 8, max_span=24, ramp=4)
    stack = Stack(Period((mixer,), functools.partial(FeedForward, 16, 32), norm="post", epsilon=1e-5), 1)
    names = golden["weight_grads"][f"{variant}_layer"]
    weights = {name: jnp.asarray(golden["weights"][variant][name]) for name in names}
    return golden, stack, weights, [jnp.asarray(golden["inputs"][name]) for name in ("h", "cache", "key_pe")]


def shared(key_pe):
    return {"rel_embedding": key_pe[0].T[::-1]}


@pytest.mark.parametrize("variant", ["span", pytest.param("plain", marks=pytest.mark.slow)])
def test_a_post_norm_block_is_the_originals_layer(variant):
    """With all gradients: the earlier states, through which our memory lets none pass, are part of the sequence."""
    (golden, stack, weights, inputs), name = original_layer(variant), f"{variant}_layer"

    @jax.jit
    def run(weights, h, cache, key_pe, cotangent):
        def layer(weights, h, cache, key_pe):
            x = jnp.concatenate([cache, h], 1)
            return stack.apply(original_block(weights), x, shared=shared(key_pe))[0][:, cache.shape[1] :]

        out, pull = jax.vjp(layer, weights, h, cache, key_pe)
        return out, *pull(cotangent)

    out, weight_grads, *grads = run(weights, *inputs, golden["inputs"]["cotangent"][name])
    assert distance(out, golden["outputs"][name]["out"])[1] <= 1e-5
    for key, grad in zip(("h", "cache", "key_pe"), grads):
        assert distance(grad, golden["grads"][name][key])[1] <= 1e-5, key
    for weight, grad in weight_grads.items():
        assert distance(grad, golden["weight_grads"][name][weight])[1] <= 1e-5, weight


@pytest.mark.slow
def test_a_memory_is_the_originals_cache():
    golden, stack, weights, (h, cache, key_pe) = original_layer("span")
    empty = stack.initial_state(2, max_length=1)[0]
    memory = empty.replace(rows=(cache[None],), segment_ids=jnp.zeros_like(empty.segment_ids))
    y, (after,) = jax.jit(stack.apply)(original_block(weights), h, [memory], shared=shared(key_pe))
    assert distance(y, golden["outputs"]["span_layer"]["out"])[1] <= 1e-5
    np.testing.assert_array_equal(after.rows[0][0], np.concatenate([cache, h], 1)[:, -24:])


def dynamic_stack(span_loss, **attributes):
    sizes = dict(d_model=D_MODEL, n_heads=2, head_dim=8, max_span=SPAN, ramp=RAMP)
    mixer = functools.partial(AdaptiveSpanAttention, dynamic=True, span_loss=span_loss, **sizes)
    return Stack(Period((mixer,), functools.partial(FeedForward, D_MODEL, 32)), 2, **attributes)


def test_a_computed_span_is_penalised_through_the_stack():
    stack, x = dynamic_stack(0.5), tokens(12)
    shared = {"rel_embedding": jnp.ones((SPAN, 8))}
    params = jax.jit(stack.init)(jax.random.key(0), x, shared=shared)["params"]

    def penalty(params):
        _, sown = stack.apply({"params": params}, x, shared=shared, mutable=["penalties"])
        return sum(jax.tree.leaves(sown))

    # Two layers whose biases say sigmoid(-4), the weights being small.
    value, gradient = jax.jit(jax.value_and_grad(penalty))(params)
    assert 0.3 < float(value) / (2 * 0.5 * SPAN / (1 + np.exp(4))) < 3
    slope = gradient["period"]["mixing_0"]["mixer"]["span"]["bias"]
    assert slope.shape == (2, 2) and (np.asarray(slope) > 0).all()


def test_a_computed_span_may_ask_for_anything():
    layer, params = make(dynamic=True)
    assert layer.adapt(params) == {} and layer.adapt(params, frozen=True) == {"frozen": True}
    assert bool(layer.fits(params)) and layer.metrics(params) == {}


def computed_spans():
    """A layer whose computed spans run over the whole of its range, and parameters."""
    layer = AdaptiveSpanAttention(D_MODEL, 2, 8, max_span=12, ramp=3, dynamic=True)
    params = jax.jit(layer.init)(jax.random.key(0), jnp.zeros((1, 4, D_MODEL)))["params"]
    return layer, {"params": params | {"span": {"kernel": params["span"]["kernel"], "bias": jnp.zeros(2)}}}


@pytest.mark.parametrize("frozen", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_computed_span_streams(frozen):
    """Pieces with a memory give what one pass gives; a frozen layer's memory holds keys and values instead."""
    layer, params = computed_spans()
    x = tokens(40, 2)
    spans = layer.apply(params, x, method=lambda layer, x: layer.spans(x))
    assert float(spans.min()) < 3 and float(spans.max()) > 9
    whole = jax.jit(layer.apply)(params, x)[0]
    layer = layer.clone(frozen=frozen)
    step, state, outputs = jax.jit(layer.apply), layer.initial_state(2, max_length=40), []
    assert len(state.rows) == (2 if frozen else 1)
    for piece in np.split(np.asarray(x), [19, 20, 21], axis=1):
        y, state = step(params, piece, state)
        outputs.append(y)
    assert relative_rms(np.concatenate(outputs, 1), whole) <= 1e-5


def test_a_computed_span_does_not_look_ahead_and_knows_no_padding():
    """The future changes no output, no bit of it; padding, NaN too, changes neither outputs nor gradients nor loss."""
    layer, params = computed_spans()
    layer = layer.clone(span_loss=0.5)
    x, keep = tokens(20, 2), np.arange(20) < np.array([[20], [13]])

    @jax.jit
    def run(x):
        def loss(params, x):
            (y, _), sown = layer.apply(params, x, padding_mask=jnp.asarray(keep), mutable=["penalties"])
            return jnp.sum(jnp.sin(y)) + sown["penalties"]["mean_span"][0], y

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)

    clean = run(jnp.where(keep[..., None], x, 0))
    jax.tree.map(np.testing.assert_array_equal, run(jnp.where(keep[..., None], x, jnp.nan)), clean)
    (_, y), (_, gradient) = clean
    assert not np.asarray(y)[~keep].any() and not np.asarray(gradient)[~keep].any()
    changed = run(jnp.where(keep[..., None], x, 0).at[:, 9:].multiply(-2))[0][1]
    np.testing.assert_array_equal(changed[:, :9], y[:, :9])
    assert not np.array_equal(changed[:, 9], y[:, 9])


@pytest.mark.slow
def test_a_computed_span_of_a_padded_example_is_that_of_the_example_alone():
    """Outputs, and the penalty, which is a mean over the tokens that are there."""
    layer, params = computed_spans()
    layer = layer.clone(span_loss=0.5)
    x, keep = tokens(20, 2), np.arange(20) < np.array([[20], [13]])
    run = jax.jit(functools.partial(layer.apply, mutable=["penalties"]))
    (together, _), sown = run(params, x, padding_mask=keep)
    penalties = [sown]
    for row, length in enumerate((20, 13)):
        (alone, _), sown = run(params, x[row : row + 1, :length])
        assert relative_rms(together[row : row + 1, :length], alone) <= 1e-5
        penalties.append(sown)
    whole, first, second = (float(sown["penalties"]["mean_span"][0]) for sown in penalties)
    assert whole == pytest.approx((20 * first + 13 * second) / 33, rel=1e-5) and first != pytest.approx(second)


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: make(visited=513), "visited=513; 1 to max_span=512"),
        (lambda: make(span_loss=-1.0), r"span_loss=-1\.0"),
        (lambda: make(initial_span=1.5), r"initial_span=1\.5"),
        (lambda: AdaptiveSpanAttention(D_MODEL, 2, 8, max_span=0), "max_span=0"),
        (lambda: dynamic_stack(0.5, residual="reversible"), "residual='reversible' with a mixer that adds to the loss"),
    ],
)
def test_mistakes_are_named(make_it, message):
    with pytest.raises(ValueError, match=message):
        make_it()
