"""The Longformer layer: against Hugging Face with all gradients, its relative windows, its streams, its settings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.layers import LongformerAttention
from effjax.ops.positions import sinusoidal_positions
from tests.goldens.load import distance, load

HIDDEN, N_HEADS, LENGTH = 32, 4, 32
PROJECTIONS = ("query", "key", "value", "query_global", "key_global", "value_global")
GOLDEN = LongformerAttention(
    HIDDEN, N_HEADS, HIDDEN // N_HEADS, causal=False, window=4, max_global=2, use_bias=True, dtype=jnp.float32
)


def to_heads(weights, prefix=""):
    """The peer's projections as our parameters; `[out, in]` becomes `[in, heads, width]`."""
    heads = (N_HEADS, HIDDEN // N_HEADS)
    return {
        name: {
            "kernel": weights[f"{prefix}{name}.weight"].T.reshape(HIDDEN, *heads),
            "bias": weights[f"{prefix}{name}.bias"].reshape(heads),
        }
        for name in PROJECTIONS
    }


def from_heads(kernel, bias):
    return {"out": {"kernel": kernel.reshape(N_HEADS, HIDDEN // N_HEADS, HIDDEN), "bias": bias}}


@functools.cache
def golden_attention():
    """Output and gradients of the layer with an output projection that changes nothing, compiled once."""

    @jax.jit
    def run(params, x, padding_mask, global_mask, cotangent):
        def attend(params, x):
            params = params | from_heads(jnp.eye(HIDDEN), jnp.zeros(HIDDEN))
            return GOLDEN.apply({"params": params}, x, padding_mask=padding_mask, global_mask=global_mask)[0]

        out, pull = jax.vjp(attend, params, x)
        return out, pull(cotangent)

    return run


@pytest.mark.parametrize("variant", ["local", "padded", "global", "global_padded"])
def test_hugging_face_attention(variant):
    golden = load("hf_longformer_attention")
    mask = golden["inputs"]["mask"][variant]
    arguments = (golden["inputs"]["x"], mask >= 0, mask > 0, golden["inputs"]["cotangent"][variant])
    out, (weight_grads, grad_x) = golden_attention()(to_heads(golden["weights"]), *arguments)
    assert distance(out, golden["outputs"][variant]["out"])[1] <= 1e-5
    assert distance(grad_x, golden["grads"][variant]["x"])[1] <= 1e-5
    theirs = golden["weight_grads"][variant]
    largest = max(np.abs(array).max() for array in theirs.values())
    for name in PROJECTIONS:
        # Biases of keys have no gradient but rounding; local variants do not have those of the global projections.
        for part, ours in (("weight", weight_grads[name]["kernel"]), ("bias", weight_grads[name]["bias"])):
            array = theirs.get(f"{name}.{part}", np.zeros(()))
            ours = ours.reshape(HIDDEN, -1).T.reshape(array.shape) if array.shape else ours
            assert np.abs(ours - array).max() <= 1e-5 * largest


def test_global_projections_begin_as_copies():
    params = jax.jit(GOLDEN.init)(jax.random.key(0), jnp.zeros((1, 2, HIDDEN)))["params"]
    for name in ("query", "key", "value"):
        np.testing.assert_array_equal(params[name]["kernel"], params[f"{name}_global"]["kernel"])
    assert params["query"]["kernel"].std() > 0.1


RELATIVE = dict(window=5, dilation=(1, 3), relative=True, use_bias=True)


@functools.cache
def relative_layer():
    layer = LongformerAttention(16, 2, 8, **RELATIVE)
    params = jax.jit(layer.init)(jax.random.key(0), jnp.zeros((1, 2, 16)))
    shaken = [x + 0.3 * jax.random.normal(jax.random.key(i), x.shape) for i, x in enumerate(jax.tree.leaves(params))]
    return layer, jax.tree.unflatten(jax.tree.structure(params), shaken)


def relative_oracle(params, x, visible):
    """Logits with the distance on the dilated grid, pair by pair."""
    params, length = params["params"], x.shape[1]
    q, k, v = (
        jnp.einsum("btd,dnh->btnh", x, params[name]["kernel"]) + params[name]["bias"]
        for name in ("query", "key", "value")
    )
    behind = np.arange(length)[:, None] - np.arange(length)
    outputs = []
    for head, step in enumerate(RELATIVE["dilation"]):
        seen = visible & (behind >= 0) & (behind % step == 0) & (behind <= step * RELATIVE["window"])
        rel = sinusoidal_positions(jnp.asarray(np.maximum(behind, 0) // step), x.shape[-1])
        rel = jnp.einsum("tsd,dh->tsh", rel, params["distance"]["kernel"][:, head])
        content = jnp.einsum("bth,bsh->bts", q[:, :, head] + params["content_bias"][head], k[:, :, head])
        place = jnp.einsum("bth,tsh->bts", q[:, :, head] + params["position_bias"][head], rel)
        weights = jax.nn.softmax(jnp.where(seen, (content + place) / np.sqrt(8), -1e30), axis=-1)
        outputs.append(jnp.where(seen.any(-1)[..., None], weights @ v[:, :, head], 0.0))
    return jnp.einsum("btnh,nhd->btd", jnp.stack(outputs, 2), params["out"]["kernel"]) + params["out"]["bias"]


def test_relative_windows_equal_their_definition():
    layer, params = relative_layer()
    x = jax.random.normal(jax.random.key(9), (2, 37, 16))
    padding = np.arange(37) < np.array([[37], [30]])
    segments = np.stack([np.arange(37) // 15, np.arange(37) // 40])
    visible = padding[:, None] & (segments[:, :, None] == segments[:, None])

    @jax.jit
    def run(params, x):
        ours = lambda *args: layer.apply(*args, padding_mask=jnp.asarray(padding), segment_ids=jnp.asarray(segments))[0]
        theirs = lambda *args: jnp.where(padding[..., None], relative_oracle(*args, visible), 0)
        (out, pull), (expected, expected_pull) = jax.vjp(ours, params, x), jax.vjp(theirs, params, x)
        return out, pull(jnp.sin(out)), expected, expected_pull(jnp.sin(out))

    out, grads, expected, expected_grads = run(params, x)
    assert distance(out, expected)[1] <= 1e-5
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected_grads[0]))
    for path, mine in jax.tree_util.tree_leaves_with_path(grads[0]):
        theirs = functools.reduce(lambda tree, key: tree[key.key], path, expected_grads[0])
        assert np.abs(mine - theirs).max() <= 2e-5 * largest, path
    assert distance(grads[1] * padding[..., None], expected_grads[1] * padding[..., None])[1] <= 2e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        RELATIVE | dict(frozen=True),
        dict(window=5, dilation=(1, 3), global_tokens=2),
    ],
    ids=["relative", "global"],
)
def test_pieces_of_any_size_equal_one_pass(options):
    """Pieces of one token take only the residue class that matters; those of more take all of them."""
    layer = LongformerAttention(16, 2, 8, **options)
    x = jax.random.normal(jax.random.key(1), (2, 29, 16))
    params = jax.jit(layer.init)(jax.random.key(0), x)
    whole, apply = jax.jit(layer.apply)(params, x)[0], jax.jit(layer.apply)
    state, start = layer.initial_state(2, max_length=1), 0
    for length in (1, 4, 1, 1, 19, 1, 1, 1):
        y, state = apply(params, x[:, start : start + length], state)
        assert distance(y, whole[:, start : start + length])[0] <= 1e-5
        start += length
    assert start == 29 and sum(window.rows[0].shape[1] for window in state.windows) == 5 + 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(window=-1), "window=-1; 0 or more tokens is allowed"),
        (dict(dilation=0), "dilation=0; a number of at least 1"),
        (dict(dilation=(1, 2, 3)), r"dilation=\(1, 2, 3\); a number of at least 1, or one for each of the 2 heads"),
        (dict(global_tokens=1, max_global=1), "global_tokens=1 with max_global=1"),
        (dict(relative=True, causal=False), "relative=True with causal=False"),
        (dict(relative=True, global_tokens=3), "relative=True with causal=True, 3 global tokens"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LongformerAttention(16, 2, 8, **options)


def test_a_mask_of_global_tokens_is_for_one_pass():
    layer = LongformerAttention(16, 2, 8, max_global=1)
    with pytest.raises(ValueError, match="max_global=1 cannot stream"):
        layer.initial_state(1, max_length=4)
    layer = LongformerAttention(16, 2, 8)
    with pytest.raises(ValueError, match="global_mask with max_global=0"):
        layer.init(jax.random.key(0), jnp.zeros((1, 2, 16)), global_mask=jnp.ones((1, 2), bool))
