import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.ops.convolution import light_conv
from effjax.ops.nystrom import iterative_pinv, nystrom_attention, stretches
from tests.goldens.load import distance, load
from tests.ops.attention_oracle import assert_close, dense_attention, random_arrays, value_and_grads


def test_the_original_implementation():
    """NystromformerSelfAttention of transformers: outputs, gradients, weight gradients, the convolution included."""
    golden = load("hf_nystromformer_attention")
    weights = {name: jnp.asarray(value) for name, value in golden["weights"].items()}

    def layer(x, weights):
        project = lambda name: (x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]).reshape(2, 32, 4, 8)
        q, k, v = (project(name) for name in ("query", "key", "value"))
        out = nystrom_attention(q, k, v, n_landmarks=8, inverse_start="batch").reshape(x.shape)
        kernel = weights["conv.weight"][:, 0, :, 0]
        return out + light_conv(v.reshape(x.shape), kernel, normalise=False, causal=False)[0]

    cotangent = jnp.asarray(golden["inputs"]["cotangent"]["plain"])
    out, grad_x, grads = value_and_grads(layer, (jnp.asarray(golden["inputs"]["x"]), weights), cotangent)
    assert distance(out, golden["outputs"]["plain"]["out"])[1] <= 1e-5
    assert distance(grad_x, golden["grads"]["plain"]["x"])[1] <= 1e-5
    theirs = dict(golden["weight_grads"]["plain"])
    # A bias of all keys cancels in every softmax: what is left is rounding, which is no more than another bias's.
    assert max(np.abs(x.pop("key.bias")).max() for x in (theirs, grads)) < 1e-5 * np.abs(theirs["query.weight"]).max()
    for name, expected in theirs.items():
        assert distance(grads[name], expected)[1] <= 1e-5


def test_the_inverse():
    with jax.enable_x64(True):
        matrix = jax.nn.softmax(2 * random_arrays((3, 5, 5))[0] + 4 * jnp.eye(5), axis=-1)
        identity = jnp.broadcast_to(jnp.eye(5), matrix.shape)
        assert_close([iterative_pinv(matrix, 12) @ matrix], [identity], 1e-12)
        # The original's start: one example depends on the others.
        together, alone = iterative_pinv(matrix, 1, "batch"), iterative_pinv(matrix, 1)
        assert np.abs(together - alone).max() > 1e-3


def test_as_many_landmarks_as_positions_are_full_attention():
    with jax.enable_x64(True):
        q, k, v = random_arrays(*[(1, 6, 2, 4)] * 3)
        q, k = 3 * q, 3 * k
        out = jax.jit(lambda *x: nystrom_attention(*x, n_landmarks=9, iterations=30))(q, k, v)
        assert_close([out], [dense_attention(q, k, v, np.ones((1, 1, 1, 1), bool))], 1e-8)


def test_stretches_are_equal_and_hold_what_is_there():
    mask = np.ones((2, 12), bool)
    mask[1, [0, 3, 4, 9, 10]] = False  # seven are left
    weights, exists = stretches(jnp.asarray(mask), (2, 12), 4)
    np.testing.assert_allclose(weights[0], np.kron(np.eye(4), np.full((1, 3), 1 / 3)), rtol=1e-6)
    assert (np.asarray(weights[1]) > 0).sum(-1).tolist() == [2, 2, 2, 1] and exists.all()
    np.testing.assert_allclose(np.asarray(weights).sum(-1), 1, rtol=1e-6)
    assert not np.asarray(weights[1])[:, ~mask[1]].any()
    few, exists = stretches(jnp.asarray(mask[:, :3]), (2, 3), 4)  # fewer positions than landmarks
    assert exists.sum(1).tolist() == [3, 2] and set(np.unique(few)) == {0, 1}


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(causal=True), r"causal=True: .* later positions"),
        (dict(segment_ids=jnp.zeros((1, 8), jnp.int32)), r"segment_ids: .* documents"),
        (dict(n_landmarks=0), "n_landmarks=0"),
        (dict(iterations=0), "iterations=0"),
        (dict(inverse_start="exact"), "inverse_start='exact'"),
    ],
)
def test_mistakes_are_named(options, words):
    x = jnp.zeros((1, 8, 1, 4))
    with pytest.raises(ValueError, match=words):
        nystrom_attention(x, x, x, **dict(n_landmarks=4) | options)
