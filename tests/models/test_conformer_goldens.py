"""The Conformer encoder gives what Hugging Face's Wav2Vec2-Conformer gives, with gradients.

Their masked variant is left to tests/layers/test_conformer_convolution.py: behind the first block their convolutions
run over whatever attention and feed-forwards left at padded places, which ours by law do not.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.models.conformer import ConformerEncoder
from tests.goldens.load import distance, load

WIDTH, HEADS, LAYERS = 32, 4, 2
PARTS = ("ffn1_layer_norm", "self_attn_layer_norm", "conv_module.layer_norm", "ffn2_layer_norm", "final_layer_norm")
# Their sinusoids take turns, sine and cosine; ours come one kind after the other.
TURNS = np.concatenate([np.arange(0, WIDTH, 2), np.arange(1, WIDTH, 2)])


def encoder(positions):
    return ConformerEncoder(
        WIDTH,
        LAYERS,
        HEADS,
        kernel_size=7,
        d_ff=48,
        activation="gelu_exact",
        position_encoding=positions,
        convolution_bias=False,
        subsample=False,
        final_norm=True,
    )


def our_block(weights, layer):
    """Parameters and statistics of a block, from theirs or from their gradients (statistics are then absent)."""
    w = lambda name: weights[f"layers.{layer}.{name}"]
    dense = lambda name: {"kernel": w(f"{name}.weight").T, "bias": w(f"{name}.bias")}
    feed = lambda name: {"inner": dense(f"{name}.intermediate_dense"), "outer": dense(f"{name}.output_dense")}
    norm = lambda name: {"scale": w(f"{name}.weight"), "bias": w(f"{name}.bias")}

    def heads(name):
        bias = {"bias": w(f"{name}.bias").reshape(HEADS, -1)}
        return {"kernel": w(f"{name}.weight").T.reshape(WIDTH, HEADS, -1)} | bias

    out = dense("self_attn.linear_out")
    attention = {name: heads(f"self_attn.linear_{name[0]}") for name in ("query", "key", "value")}
    attention["out"] = out | {"kernel": out["kernel"].reshape(HEADS, -1, WIDTH)}
    if f"layers.{layer}.self_attn.linear_pos.weight" in weights:
        kernel = w("self_attn.linear_pos.weight").T[TURNS]
        attention["distance"] = {"kernel": kernel.reshape(WIDTH, HEADS, -1)}
        attention["content_bias"], attention["position_bias"] = w("self_attn.pos_bias_u"), w("self_attn.pos_bias_v")
    convolution = {
        "inner": {"kernel": w("conv_module.pointwise_conv1.weight")[..., 0].T.reshape(WIDTH, 2, WIDTH)},
        "kernel": w("conv_module.depthwise_conv.weight")[:, 0].T,
        "norm": norm("conv_module.batch_norm"),
        "outer": {"kernel": w("conv_module.pointwise_conv2.weight")[..., 0].T},
    }
    block = {"feed_forward_1": feed("ffn1"), "feed_forward_2": feed("ffn2"), "attention": attention}
    return block | {"convolution": convolution} | {f"norms_{i}": norm(part) for i, part in enumerate(PARTS)}


def our_params(weights):
    blocks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(our_block(weights, i) for i in range(LAYERS)))
    norm = {"scale": weights["layer_norm.weight"], "bias": weights["layer_norm.bias"]}
    return {"blocks": {"block": blocks}, "norm": norm}


def our_statistics(weights):
    stack = lambda part: jnp.stack(
        [weights[f"layers.{i}.conv_module.batch_norm.running_{part}"] for i in range(LAYERS)]
    )
    return {"blocks": {"block": {"convolution": {"norm": {"mean": stack("mean"), "variance": stack("var")}}}}}


@functools.partial(jax.jit, static_argnames=("positions", "train"))
def run(params, statistics, x, cotangent, *, positions, train):
    def encode(params, x):
        variables = {"params": params, "batch_stats": statistics}
        return encoder(positions).apply(variables, x, deterministic=not train, mutable=["batch_stats"])[0][0]

    out, pull = jax.vjp(encode, params, x)
    return out, *pull(cotangent)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("relative", "eval"),
        pytest.param("relative", "train", marks=pytest.mark.slow),
        pytest.param("rotary", "eval", marks=pytest.mark.slow),
        pytest.param("rotary", "train", marks=pytest.mark.slow),
    ],
)
def test_matches_hugging_face(name, variant):
    golden = load(f"hf_conformer_{name}")
    weights, x = golden["weights"], golden["inputs"]["x"]
    cotangent = golden["inputs"]["cotangent"][variant]
    options = dict(positions=name, train=variant == "train")
    out, param_grads, grad_x = run(our_params(weights), our_statistics(weights), x, cotangent, **options)
    assert distance(out, golden["outputs"][variant]["out"])[1] <= 1e-5
    assert distance(grad_x, golden["grads"][variant]["x"])[1] <= 1e-5
    if expected := golden["weight_grads"].get(variant):
        expected = our_params(expected)
        largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))

        def compare(path, ours, theirs):  # gradients of the keys' biases are 0 but for rounding
            bound = 1e-5 * max(np.abs(theirs).max(), 0.1 * largest)
            assert np.abs(ours - theirs).max() <= bound, jax.tree_util.keystr(path)

        jax.tree_util.tree_map_with_path(compare, param_grads, expected)
