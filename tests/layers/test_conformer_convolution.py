"""Conformer's convolution module: within Hugging Face's encoder with gradients, and what keeps padding out of it."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from effjax.layers import ConformerConvolution
from effjax.layers.conformer_convolution import MaskedBatchNorm
from tests.goldens.load import distance, load
from tests.laws.measure import relative_rms

WIDTH, HEADS, TAPS = 32, 4, 7
GOLDEN = ConformerConvolution(WIDTH, TAPS, activation="gelu_exact", use_bias=False)


def module(weights, prefix, x, keep, train):
    """Our module with the peer's weights."""
    kernels = {name: weights[f"{prefix}{name}.weight"][..., 0].T for name in ("pointwise_conv1", "pointwise_conv2")}
    params = {
        "inner": {"kernel": kernels["pointwise_conv1"].reshape(WIDTH, 2, WIDTH)},
        "kernel": weights[f"{prefix}depthwise_conv.weight"][:, 0].T,
        "norm": {"scale": weights[f"{prefix}batch_norm.weight"], "bias": weights[f"{prefix}batch_norm.bias"]},
        "outer": {"kernel": kernels["pointwise_conv2"]},
    }
    running = {
        "mean": weights[f"{prefix}batch_norm.running_mean"],
        "variance": weights[f"{prefix}batch_norm.running_var"],
    }
    variables = {"params": params, "batch_stats": {"norm": running}}
    return GOLDEN.apply(variables, x, padding_mask=keep, deterministic=not train, mutable=["batch_stats"])[0][0]


def attention(weights, prefix, x, keep, table):
    linear = lambda x, name: x @ weights[f"{prefix}{name}.weight"].T + weights[f"{prefix}{name}.bias"]
    split = lambda x: x.reshape(*x.shape[:-1], HEADS, WIDTH // HEADS)
    length, turned = x.shape[1], x
    if table is None:
        angles = np.arange(length)[:, None] * 10000.0 ** (-np.arange(0, WIDTH // HEADS, 2) / (WIDTH // HEADS))
        cos, sin = (jnp.asarray(np.tile(f(angles), 2), x.dtype)[:, None] for f in (np.cos, np.sin))
        first, second = jnp.split(split(x), 2, axis=-1)
        turned = (split(x) * cos + jnp.concatenate([-second, first], -1) * sin).reshape(x.shape)
    q, k, v = (split(linear(x, name)) for x, name in ((turned, "linear_q"), (turned, "linear_k"), (x, "linear_v")))
    if table is None:
        logits = jnp.einsum("btnh,bsnh->bnts", q, k)
    else:
        distances = split(table[0] @ weights[f"{prefix}linear_pos.weight"].T)  # of + (T-1) ... - (T-1)
        near = distances[length - 1 - np.arange(length)[:, None] + np.arange(length)]
        logits = jnp.einsum("btnh,bsnh->bnts", q + weights[f"{prefix}pos_bias_u"], k)
        logits += jnp.einsum("btnh,tsnh->bnts", q + weights[f"{prefix}pos_bias_v"], near)
    logits = jnp.where(keep[:, None, None], logits * (WIDTH // HEADS) ** -0.5, -1e9)
    y = jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(logits, -1), v).reshape(x.shape)
    return linear(y, "linear_out")


def encoder(weights, x, keep, table, train, masked=False):
    """The peer's encoder around our module, which knows of the padding if `masked`."""

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def feed(x, name):
        w = lambda part: weights[f"{name}.{part}"]
        hidden = jax.nn.gelu(x @ w("intermediate_dense.weight").T + w("intermediate_dense.bias"), approximate=False)
        return hidden @ w("output_dense.weight").T + w("output_dense.bias")

    x = jnp.where(keep[..., None], x, 0)
    for layer in ("layers.0.", "layers.1."):
        x = x + 0.5 * feed(norm(x, f"{layer}ffn1_layer_norm"), f"{layer}ffn1")
        x = x + attention(weights, f"{layer}self_attn.", norm(x, f"{layer}self_attn_layer_norm"), keep, table)
        conv = f"{layer}conv_module."
        x = x + module(weights, conv, norm(x, f"{conv}layer_norm"), keep if masked else None, train)
        x = x + 0.5 * feed(norm(x, f"{layer}ffn2_layer_norm"), f"{layer}ffn2")
        x = norm(x, f"{layer}final_layer_norm")
    return norm(x, "layer_norm")


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("relative", "train"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("relative", "eval"),
                ("relative", "eval_masked"),
                ("rotary", "eval"),
                ("rotary", "eval_masked"),
                ("rotary", "train"),
            )
        ),
    ],
)
def test_within_hugging_face_encoder(name, variant):
    """The peer's module knows no padding: with "eval_masked" it runs over what attention and feed-forward networks left
    at padded places, and takes that into its neighbours. Ours, told of the padding, would not, so here it is not told;
    the test that follows tells it.
    """
    golden = load(f"hf_conformer_{name}")
    inputs = golden["inputs"]
    keep = inputs["keep"] if variant == "eval_masked" else np.ones(inputs["keep"].shape, bool)
    table = inputs["positions"] if name == "relative" else None
    weights = {key: jnp.asarray(array) for key, array in golden["weights"].items()}

    @jax.jit
    def run(weights, x, cotangent):
        out, pull = jax.vjp(lambda weights, x: encoder(weights, x, keep, table, variant == "train"), weights, x)
        return out, pull(cotangent)

    out, (weight_grads, grad_x) = run(weights, inputs["x"], inputs["cotangent"][variant])
    assert distance(out, golden["outputs"][variant]["out"])[1] <= 1e-5
    assert distance(grad_x, golden["grads"][variant]["x"])[1] <= 1e-5
    theirs = golden["weight_grads"].get(variant, {})
    assert len(theirs) == {"eval": len(weights) - 4}.get(variant, 0)  # all but the running statistics
    largest = max((np.abs(array).max() for array in theirs.values()), default=0)
    for key, array in theirs.items():  # those of the keys' biases are 0 but for rounding
        assert np.abs(weight_grads[key] - array).max() <= 1e-5 * max(np.abs(array).max(), 0.1 * largest)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relative", "rotary"])
def test_told_of_the_padding_within_hugging_face_encoder(name):
    """Theirs where nothing is padded; where something is, what the frames that are there give by themselves."""
    golden = load(f"hf_conformer_{name}")
    x, keep = golden["inputs"]["x"], golden["inputs"]["keep"]
    cotangent = golden["inputs"]["cotangent"]["eval_masked"] * keep[..., None]
    weights = {key: jnp.asarray(array) for key, array in golden["weights"].items()}
    lengths = keep.sum(1)
    assert lengths[0] == keep.shape[1] and 0 < lengths[1] < keep.shape[1]

    @functools.partial(jax.jit, static_argnames="masked")
    def run(x, keep, cotangent, masked):
        table = None
        if name == "relative":
            cut = len(golden["inputs"]["x"][0]) - x.shape[1]  # distances run from + (T-1) to - (T-1)
            table = golden["inputs"]["positions"][:, cut : golden["inputs"]["positions"].shape[1] - cut]
        out, pull = jax.vjp(lambda x: encoder(weights, x, keep, table, False, masked=masked), x)
        return out, pull(cotangent)[0]

    ours = run(x, keep, cotangent, True)
    for mine, theirs in zip(ours, (golden["outputs"]["eval_masked"]["out"], golden["grads"]["eval_masked"]["x"])):
        assert distance(mine[0], theirs[0])[1] <= 1e-5
        assert distance(mine[1, : lengths[1]], theirs[1, : lengths[1]])[1] > 1e-3
    there = slice(0, lengths[1])
    alone = run(x[1:, there], keep[1:, there], cotangent[1:, there], False)
    for mine, expected in zip(ours, alone):
        assert distance(mine[1, there], expected[0])[1] <= 1e-5


LENGTHS = (13, 6, 1)
KEEP = jnp.asarray(np.arange(13) < np.array(LENGTHS)[:, None])
LAYER = ConformerConvolution(6, 5, depthwise_bias=True)


@functools.cache
def variables():
    variables = jax.jit(LAYER.init)(jax.random.key(0), jnp.zeros((1, 4, 6)))
    stats = {"mean": jnp.linspace(-1, 1, 6), "variance": jnp.linspace(0.5, 2, 6)}
    return variables | {"batch_stats": {"norm": stats}}


def frames(shape=KEEP.shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=(*shape, 6)), jnp.float32)


@functools.partial(jax.jit, static_argnames="train")
def apply(variables, x, padding_mask, train):
    (y, _), new = LAYER.apply(variables, x, padding_mask=padding_mask, deterministic=not train, mutable=["batch_stats"])
    return y, new["batch_stats"]["norm"]


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_padding_touches_nothing(train):
    """(e) 1: neither NaN nor more of it changes an output, a statistic or a gradient."""
    x = jnp.where(KEEP[..., None], frames(), jnp.nan)
    more = jnp.pad(frames(), ((0, 0), (0, 4), (0, 0))), jnp.pad(KEEP, ((0, 0), (0, 4)))

    def run(x, keep):
        loss = lambda x: (lambda y, stats: (jnp.sum(jnp.sin(y)), (y, stats)))(*apply(variables(), x, keep, train))
        gradient, (y, stats) = jax.grad(loss, has_aux=True)(x)
        return gradient[:, :13], y[:, :13], stats

    expected = run(jnp.where(KEEP[..., None], frames(), 0), KEEP)
    jax.tree.map(np.testing.assert_array_equal, run(x, KEEP), expected)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), run(*more), expected)
    assert not np.asarray(expected[1])[~KEEP].any()


def test_evaluation_takes_sequences_one_by_one():
    """Running statistics, not those of the batch."""
    together, stats = apply(variables(), frames(), KEEP, False)
    jax.tree.map(np.testing.assert_array_equal, stats, variables()["batch_stats"]["norm"])
    for row, length in enumerate(LENGTHS):
        alone, _ = apply(variables(), frames()[row : row + 1, :length], None, False)
        np.testing.assert_allclose(together[row, :length], alone[0], atol=1e-6)


def test_masked_statistics_are_those_of_the_valid_frames():
    """(e) 5, against numpy."""
    norm, x = MaskedBatchNorm(momentum=0.9), frames() * 3 + 1
    valid = np.asarray(x, np.float64)[np.asarray(KEEP)]
    params = {"scale": jnp.linspace(1, 2, 6), "bias": jnp.linspace(0, 1, 6)}
    stats = {"mean": jnp.ones(6), "variance": jnp.full(6, 2.0)}
    y, new = norm.apply({"params": params, "batch_stats": stats}, x, KEEP, deterministic=False, mutable=["batch_stats"])
    expected = (valid - valid.mean(0)) / np.sqrt(valid.var(0) + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(np.asarray(y)[np.asarray(KEEP)], expected, atol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.9 + 0.1 * valid.mean(0), rtol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["variance"], 1.8 + 0.1 * valid.var(0), rtol=1e-5)


@pytest.mark.eight_devices
def test_statistics_are_those_of_all_devices():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    x, keep = frames((4, 13)), KEEP[jnp.array([0, 1, 1, 2])]
    split = jax.device_put((x, keep), jax.NamedSharding(mesh, P("data")))
    ours, theirs = apply(variables(), *split, True), apply(variables(), x, keep, True)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), ours, theirs)


def test_one_tap_without_statistics_is_a_pointwise_network():
    """(e) 2, first half; and (e) 4: a gate wide open passes the value through."""
    layer = ConformerConvolution(6, 1, epsilon=0.0)
    x = frames((2, 5))
    own = jax.jit(layer.init)(jax.random.key(0), x)
    params = own["params"] | {"kernel": jnp.ones((1, 6))}
    inner = params["inner"]
    params["inner"] = {"kernel": inner["kernel"].at[:, 1].set(0), "bias": inner["bias"].at[1].set(jnp.inf)}
    y, _ = layer.apply(own | {"params": params}, x)
    hidden = jax.nn.silu(x @ inner["kernel"][:, 0])
    np.testing.assert_allclose(y, hidden @ params["outer"]["kernel"], atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_number_of_parameters(bias):
    """(e) 9: 3 d^2 + 3 d + K d (+ d) + 2 d; the layer norm is the block's."""
    width, taps = 16, 32
    params = jax.eval_shape(
        ConformerConvolution(width, taps, depthwise_bias=bias).init, jax.random.key(0), jnp.zeros((1, 1, width))
    )["params"]
    expected = 3 * width**2 + 3 * width + taps * width + bias * width + 2 * width
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_a_causal_module_streams():
    layer, x = LAYER.clone(causal=True), frames((2, 13))
    step = jax.jit(layer.apply)
    whole, state, pieces = step(variables(), x)[0], layer.initial_state(2, max_length=13), []
    for piece in np.split(np.asarray(x), [1, 8, 9], axis=1):
        y, state = step(variables(), piece, state)
        pieces.append(y)
    np.testing.assert_allclose(np.concatenate(pieces, 1), whole, atol=1e-6)


def test_documents_are_kept_apart():
    """In evaluation: another document changes no bit of one, no gradient crosses, and each equals itself alone."""
    x, cuts = frames((2, 13)), (0, 5, 13)
    segments = jnp.asarray(np.repeat([3, 1], np.diff(cuts))[None].repeat(2, axis=0))
    run = jax.jit(functools.partial(LAYER.apply, variables()))
    together = lambda x: run(x, segment_ids=segments)[0]
    y = together(x)
    for start, stop in itertools.pairwise(cuts):
        own = np.s_[:, start:stop]
        moved = together((-2 * x).at[own].set(x[own]))
        np.testing.assert_array_equal(moved[own], y[own])
        np.testing.assert_allclose(y[own], run(x[own])[0], atol=1e-6)
        gradient = np.array(jax.grad(lambda x, own=own: jnp.sum(together(x)[own] ** 2))(x))
        assert gradient[own].any()
        gradient[own] = 0
        assert not gradient.any()


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_large_bfloat16_stays_finite(train):
    """Frames of 1e3, forward and backward, and within 2e-2 of float32 where they are of 1."""
    layer, own = LAYER.clone(dtype=jnp.bfloat16), variables()

    @functools.partial(jax.jit, static_argnums=0)
    def run(layer, x):
        def loss(params, x):
            changed = own | {"params": params}
            (y, _), _ = layer.apply(changed, x, padding_mask=KEEP, deterministic=not train, mutable=["batch_stats"])
            return jnp.sum(y.astype(jnp.float32) * jnp.cos(jnp.arange(y.size).reshape(y.shape))), y

        (_, y), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(own["params"], x)
        return y, gradients

    large = run(layer, (1e3 * jnp.clip(frames(), -1, 1)).astype(jnp.bfloat16))
    assert large[0].dtype == jnp.bfloat16
    assert all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(large))
    x = frames().astype(jnp.bfloat16)
    rough, exact = run(layer, x)[0], run(LAYER, x.astype(jnp.float32))[0]
    assert relative_rms(rough, exact) <= 2e-2


@pytest.mark.parametrize("length", [1, 2, 4, 5])
def test_lengths_about_the_kernel_are_the_beginning_of_a_causal_pass(length):
    """The future changes nothing, and a sequence may be shorter than the kernel."""
    layer, x = LAYER.clone(causal=True), frames((2, 13))
    run = jax.jit(functools.partial(layer.apply, variables()))
    whole, changed = run(x)[0], run(x.at[:, length:].multiply(-2))[0]
    np.testing.assert_array_equal(changed[:, :length], whole[:, :length])
    assert not np.array_equal(changed[:, length], whole[:, length])
    np.testing.assert_allclose(run(x[:, :length])[0], whole[:, :length], atol=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ConformerConvolution(6, 0), "kernel_size=0"),
        (lambda: ConformerConvolution(0), "d_model=0"),
        (lambda: ConformerConvolution(6, activation="swish"), "activation='swish'"),
        (lambda: LAYER.initial_state(1, max_length=4), "causal=False cannot stream"),
        (
            lambda: LAYER.clone(causal=True).apply(
                variables(),
                frames(),
                LAYER.clone(causal=True).initial_state(3, max_length=13),
                deterministic=False,
                mutable=["batch_stats"],
            ),
            "deterministic=False with a state",
        ),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
