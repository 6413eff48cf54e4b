"""Patterns run by the engine, against the outputs and gradients of the originals."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from effjax.ops.patterns import Causal, GlobalTokens, Strided, big_bird, from_mask
from effjax.ops.sparse import sparse_attention
from tests.goldens.load import distance, load
from tests.ops.attention_oracle import value_and_grads

LENGTH, BLOCK = 96, 8


def first_block_again(query, key, head):
    """In evaluation the peer's two random blocks are both the first one, which then counts three times."""
    middle = (query >= BLOCK) & (query < LENGTH - BLOCK)
    return jnp.where(middle & (key < BLOCK), np.log(3.0), 0.0)


@pytest.mark.parametrize(
    "variant", ["padded", *(pytest.param(name, marks=pytest.mark.slow) for name in ("train", "eval"))]
)
def test_big_bird_equals_transformers(variant):
    """The peer draws its random blocks with numpy's global generator: they come in as a mask. Its last global block is
    that of the array, whether there are tokens in it or not, and it clears the outputs of padding."""
    golden = load("hf_bigbird_attention")
    bias = first_block_again if variant == "eval" else None
    blocks_seen = golden["inputs"]["random_blocks_eval" if variant == "eval" else "random_blocks"]
    assert blocks_seen.any() == (variant != "eval")
    keep = jnp.asarray(golden["inputs"]["keep"] > 0) if variant == "padded" else jnp.ones((2, LENGTH), bool)
    drawn = np.zeros((2, LENGTH // BLOCK, LENGTH // BLOCK), bool)
    for head, blocks in enumerate(blocks_seen):
        drawn[head, np.arange(1, len(blocks) + 1)[:, None], blocks] = True
    drawn = drawn.repeat(BLOCK, 1).repeat(BLOCK, 2)
    last = GlobalTokens(tuple(range(LENGTH - BLOCK, LENGTH)))
    pattern = big_bird(BLOCK, n_random=0) | last | from_mask(drawn)
    names = [f"{name}.{kind}" for name in ("query", "key", "value") for kind in ("weight", "bias")]

    def layer(x, *weights):
        heads = [(x @ w.T + b).reshape(*x.shape[:2], 2, 16) for w, b in zip(weights[::2], weights[1::2])]
        y = sparse_attention(*heads, pattern=pattern, padding_mask=keep, bias=bias)
        return jnp.where(keep[..., None], y.reshape(x.shape), 0)

    arrays = [jnp.asarray(x) for x in (golden["inputs"]["x"], *(golden["weights"][name] for name in names))]
    out, grad_x, *grads = value_and_grads(layer, arrays, jnp.asarray(golden["inputs"]["cotangent"][variant]))
    assert distance(out, golden["outputs"][variant]["out"])[1] <= 1e-5
    assert distance(grad_x, golden["grads"][variant]["x"])[1] <= 1e-5
    theirs = golden["weight_grads"][variant]
    largest = max(np.abs(array).max() for array in theirs.values())
    for name, grad in zip(names, grads):
        if name == "key.bias":  # adds the same to all logits of a query: its gradient is rounding
            assert np.abs(grad - theirs[name]).max() <= 1e-5 * largest
        else:
            assert distance(grad, theirs[name])[1] <= 1e-5


def test_sparse_transformer_equals_openai():
    """The three modes of the original's dense implementation, with gradients."""
    golden = load("openai_sparse_attention")
    patterns = {"all": Causal(), "strided": Strided(8, form="far")}
    patterns["local"] = Strided(8, form="local", inclusive=False)  # the code's reading of the last `stride` positions
    heads = lambda x: jnp.asarray(x).reshape(2, 32, 4, 8)
    arrays = tuple(heads(golden["inputs"][name]) for name in "qkv")
    for mode, pattern in patterns.items():
        attend = partial(sparse_attention, pattern=pattern)
        out, *grads = value_and_grads(attend, arrays, heads(golden["inputs"]["cotangent"][mode]))
        assert distance(out.reshape(2, 32, 32), golden["outputs"][mode]["out"])[1] <= 1e-5
        for name, grad in zip("qkv", grads):
            assert distance(grad.reshape(2, 32, 32), golden["grads"][mode][name])[1] <= 1e-5
