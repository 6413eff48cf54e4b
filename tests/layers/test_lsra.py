"""Long-short range attention and its convolutions: against the original with gradients, and the paper's promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.layers.convolution import DepthwiseConvolution, DynamicConvolution, LightConvolution
from effjax.layers.feed_forward import FeedForward
from effjax.layers.full import FullAttention
from effjax.layers.lsra import LSRA
from effjax.models.block import Feeding, Mixing
from effjax.ops.convolution import dynamic_conv, light_conv
from effjax.ops.full import full_attention
from tests.goldens.load import distance, load

WIDTH, HALF, HEADS, TAPS = 32, 16, 2, 7
KINDS = {"lsra_lightweight": "light", "lsra_dynamic": "dynamic"}
goldens = pytest.mark.parametrize("name", KINDS)


def golden_layer(name):
    return LSRA(
        WIDTH,
        HEADS,
        HALF // HEADS,
        kernel_size=TAPS,
        convolution=KINDS[name],
        conv_heads=HEADS,
        causal=False,
        glu=KINDS[name] == "dynamic",
        bias_at_padding=True,
    )


def our_params(weights, name):
    """The peer's weights, [out, in], as our parameters."""
    attention, convolution = (f"self_attn.branches.{branch}." for branch in (0, 1))
    heads = (HEADS, HALF // HEADS)
    params = {"attention": {}, "convolution": {}}
    for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        params["attention"][ours] = {
            "kernel": weights[f"{attention}{theirs}.weight"].T.reshape(HALF, *heads),
            "bias": weights[f"{attention}{theirs}.bias"].reshape(heads),
        }
    params["attention"]["out"] = {
        "kernel": weights[f"{attention}out_proj.weight"].T.reshape(*heads, HALF),
        "bias": weights[f"{attention}out_proj.bias"],
    }
    for ours, theirs in (("inner", "linear1"), ("outer", "linear2")):
        kernel, bias = weights[f"{convolution}{theirs}.weight"].T, weights[f"{convolution}{theirs}.bias"]
        if ours == "inner" and KINDS[name] == "dynamic":
            kernel, bias = kernel.reshape(HALF, 2, HALF), bias.reshape(2, HALF)
        params["convolution"][ours] = {"kernel": kernel, "bias": bias}
    if KINDS[name] == "dynamic":
        logits = weights[f"{convolution}weight_linear.weight"].T.reshape(HALF, HEADS, TAPS)
        params["convolution"]["logits"] = {"kernel": logits}
    else:
        params["convolution"]["logits"] = weights[f"{convolution}weight"][:, 0]
    return params


def with_ops(params, name, x, keep):
    """The same two branches by the ops, where padded positions have outputs too, as in the original."""
    own, linear = params["attention"], lambda x, p: jnp.tensordot(x, p["kernel"], 1) + p["bias"]
    q, k, v = (linear(x[..., :HALF], own[part]) for part in ("query", "key", "value"))
    y = full_attention(q, k, v, padding_mask=keep)
    long = jnp.einsum("btnh,nhd->btd", y, own["out"]["kernel"]) + own["out"]["bias"]
    own = params["convolution"]
    u = linear(jnp.where(keep[..., None], x[..., HALF:], 0), own["inner"])
    if KINDS[name] == "dynamic":
        u = u[..., 0, :] * jax.nn.sigmoid(u[..., 1, :])
        short, _ = dynamic_conv(u, jnp.tensordot(u, own["logits"]["kernel"], 1), causal=False)
    else:
        short, _ = light_conv(u, own["logits"], causal=False)
    return jnp.concatenate([long, linear(short, own["outer"])], -1)


def encoder_layer(weights, name, x, mix):
    """The peer's post-norm layer around a mixer, in its layout [T, B, D]."""

    def norm(x, part):
        x = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * weights[f"{part}.weight"] + weights[f"{part}.bias"]

    x = x.swapaxes(0, 1)
    x = norm(x + mix(our_params(weights, name), x), "self_attn_layer_norm")
    y = jax.nn.relu(x @ weights["fc1.weight"].T + weights["fc1.bias"]) @ weights["fc2.weight"].T + weights["fc2.bias"]
    return norm(x + y, "final_layer_norm").swapaxes(0, 1)


def run(golden, name, variant, mix):
    weights = {key: array for key, array in golden["weights"].items()}
    f = lambda weights, x: encoder_layer(weights, name, x, mix)

    @jax.jit
    def go(weights, x, cotangent):
        out, pull = jax.vjp(f, weights, x)
        return out, pull(cotangent)

    return go(weights, golden["inputs"]["x"], golden["inputs"]["cotangent"][variant])


@goldens
def test_the_original_without_padding(name):
    golden, layer = load(name), golden_layer(name)
    out, (weights, x) = run(golden, name, "plain", lambda params, x: layer.apply({"params": params}, x)[0])
    assert distance(out, golden["outputs"]["plain"]["out"])[1] <= 1e-5
    assert distance(x, golden["grads"]["plain"]["x"])[1] <= 1e-5
    theirs = golden["weight_grads"]["plain"]
    assert set(theirs) == set(weights)
    largest = max(np.abs(array).max() for array in theirs.values())
    for key, array in theirs.items():  # those of the keys' bias are 0 but for rounding
        assert np.abs(weights[key] - array).max() <= 1e-5 * max(np.abs(array).max(), 0.1 * largest)


@goldens
def test_the_original_with_padding(name):
    """Our layer at the positions that are there, the ops everywhere, with gradients."""
    golden, layer = load(name), golden_layer(name)
    keep, theirs = jnp.asarray(~golden["inputs"]["padding"]), golden["outputs"]["padded"]["out"]
    out, (_, x) = run(golden, name, "padded", lambda params, x: with_ops(params, name, x, keep))
    assert distance(out, theirs)[1] <= 1e-5
    assert distance(x, golden["grads"]["padded"]["x"])[1] <= 1e-5
    apply = jax.jit(lambda params, x: layer.apply({"params": params}, x, padding_mask=keep)[0])
    out = encoder_layer(golden["weights"], name, jnp.asarray(golden["inputs"]["x"]), apply)
    assert distance(out[keep.T], theirs[keep.T])[1] <= 1e-5


@goldens
def test_the_originals_convolution_branch(name):
    golden, layer = load(name), golden_layer(name)
    branch = layer.branches(name=None, parent=None)[1]
    weights = {key: jnp.asarray(array) for key, array in golden["weights"].items()}

    @jax.jit
    def go(x, cotangent):
        apply = lambda x: branch.apply({"params": our_params(weights, name)["convolution"]}, x)[0]
        out, pull = jax.vjp(lambda x: apply(x.swapaxes(0, 1)[..., HALF:]).swapaxes(0, 1), x)
        return out, pull(cotangent)[0]

    out, x = go(golden["inputs"]["x"], golden["inputs"]["cotangent"]["conv_branch"])
    assert distance(out, golden["outputs"]["conv_branch"]["out"])[1] <= 1e-5
    assert distance(x, golden["grads"]["conv_branch"]["x"])[1] <= 1e-5


def initialised(layer, length=9):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, length, layer.d_model)), jnp.float32)
    return jax.jit(layer.init)(jax.random.key(0), x), x


@pytest.mark.parametrize("convolution", ["light", "dynamic"])
def test_branches_see_their_own_channels_only(convolution):
    """(e) 1."""
    layer = LSRA(16, 2, 4, kernel_size=3, convolution=convolution)
    params, x = initialised(layer)
    ours = jax.jit(jax.jacrev(lambda x: layer.apply(params, x)[0].sum((0, 1))))(x)
    assert not np.asarray(ours[:8, ..., 8:]).any() and not np.asarray(ours[8:, ..., :8]).any()
    assert np.asarray(ours[:8, ..., :8]).any() and np.asarray(ours[8:, ..., 8:]).any()


@pytest.mark.parametrize("op", [light_conv, dynamic_conv])
def test_kernels_that_sum_to_one(op):
    """(e) 2: one tap is the identity, and a constant stays constant away from the edges."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 4)), jnp.float32)
    logits = lambda taps: jax.random.normal(jax.random.key(0), (2, taps) if op is light_conv else (2, 9, 2, taps))
    np.testing.assert_array_equal(op(x, logits(1))[0], x)
    constant = jnp.full_like(x, 3.0)
    np.testing.assert_allclose(op(constant, logits(4))[0][:, 3:], constant[:, 3:], rtol=1e-6)


@pytest.mark.slow
def test_dynamic_kernels_from_zero_weights_are_a_uniform_average():
    """(e) 3, first half; its second half, two forms of one sum, is tests/ops/test_convolution.py."""
    params, x = initialised(DynamicConvolution(8, 2, 4, kernel_size=3))
    params["params"]["logits"]["kernel"] *= 0
    light = LightConvolution(8, 2, 4, kernel_size=3)
    equal = {"params": params["params"] | {"logits": jnp.zeros((2, 3))}}
    ours = DynamicConvolution(8, 2, 4, kernel_size=3).apply(params, x)[0]
    np.testing.assert_allclose(ours, light.apply(equal, x)[0], atol=1e-6)


def test_as_many_heads_as_channels_are_a_depthwise_convolution():
    """(e) 4."""
    params, x = initialised(LightConvolution(8, 8, 1, kernel_size=3))
    own = params["params"]
    kernel = jax.nn.softmax(own["logits"], axis=-1).T
    depthwise = {"params": {"inner": own["inner"], "outer": own["outer"], "kernel": kernel}}
    ours = LightConvolution(8, 8, 1, kernel_size=3).apply(params, x)[0]
    np.testing.assert_allclose(ours, DepthwiseConvolution(8, 8, 1, kernel_size=3).apply(depthwise, x)[0], atol=1e-6)


@pytest.mark.parametrize(("width", "dynamic"), [(32, True), (48, False)])
def test_parameters_of_an_encoder_layer(width, dynamic):
    """(e) 6: the paper's flattened block, its norms included."""
    heads, taps, half = 4, 7, width // 2
    make = functools.partial(
        LSRA,
        width,
        heads,
        half // heads,
        kernel_size=taps,
        conv_heads=heads,
        convolution="dynamic" if dynamic else "light",
        glu=dynamic,
    )
    mixing, feeding = Mixing(make_mixer=make), Feeding(make_feed_forward=functools.partial(FeedForward, width, width))
    x, key = jnp.zeros((1, 4, width)), jax.random.key(0)
    params = jax.eval_shape(
        lambda: (mixing.init(key, x, None, None, deterministic=True), feeding.init(key, x, deterministic=True))
    )
    inner = half * (2 * half if dynamic else half) + (2 * half if dynamic else half)
    kernels = half * heads * taps if dynamic else heads * taps
    expected = 4 * half**2 + 4 * half + inner + kernels + half**2 + half + 2 * width**2 + 2 * width + 4 * width
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


@pytest.mark.slow
def test_parameters_of_the_published_models():
    """Six encoder and six decoder layers without embeddings; a decoder layer has one attention of full width more."""
    taps = (3, 7, 15, 31, 31, 31)

    def model(width, dynamic):
        half, total = width // 2, 0
        for k in taps:
            layer = LSRA(width, 4, half // 4, kernel_size=k, convolution="dynamic" if dynamic else "light", glu=dynamic)
            params = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 4, width)))
            mixer = sum(leaf.size for leaf in jax.tree.leaves(params))
            feed, norm, cross = 2 * width**2 + 2 * width, 2 * width, 4 * width**2 + 4 * width
            total += 2 * (mixer + feed + 2 * norm) + cross + norm
        return total

    published = {496: 17_283_616, 408: 11_739_792, 200: 2_884_400}
    assert {width: model(width, True) for width in published} == published
    published = {160: 1_713_584, 240: 3_837_104, 320: 6_805_424}
    assert {width: model(width, False) for width in published} == published


def test_the_attention_branch_may_be_any_attention():
    """(e) 7: it is that layer, at half the width; a bounded one makes the whole state bounded."""
    from effjax.layers.local import LocalAttention

    layer = LSRA(16, 2, 4, kernel_size=3)
    params, x = initialised(layer)
    own = FullAttention(8, 2, 4, use_bias=True)
    expected = own.apply({"params": params["params"]["attention"]}, x[..., :8])[0]
    np.testing.assert_allclose(layer.apply(params, x)[0][..., :8], expected, atol=1e-6)
    assert not layer.bounded_state
    near = LSRA(16, 2, 4, kernel_size=3, make_attention=functools.partial(LocalAttention, chunk_size=4))
    assert near.bounded_state and initialised(near)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LSRA(15, 2, 4), "d_model=15"),
        (lambda: LSRA(16, 2, 4, conv_heads=3), "conv_heads=3"),
        (lambda: LSRA(16, 2, 4, convolution="full"), "convolution='full'"),
        (lambda: LSRA(16, 2, 4, kernel_size=0), "kernel_size=0"),
        (lambda: LSRA(16, 2, 4, weight_dropout=1.0), "weight_dropout=1.0"),
        (lambda: LightConvolution(16, 2, 4, kernel_size=0), "kernel_size=0"),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
