"""Patterns run by the engine, against the outputs and gradients of the originals."""

from functools import partial

import jax.numpy as jnp
import numpy as np

from effjax.ops.patterns import Causal, GlobalTokens, SlidingWindow, Strided, big_bird, from_mask
from effjax.ops.sparse import sparse_attention
from tests.goldens.load import distance, load
from tests.ops.attention_oracle import value_and_grads

LENGTH, BLOCK = 96, 8


def test_big_bird_equals_transformers():
    """The peer draws its random blocks with numpy's global generator: they come in as a mask."""
    golden = load("hf_bigbird_attention")
    drawn = np.zeros((2, LENGTH // BLOCK, LENGTH // BLOCK), bool)
    for head, blocks in enumerate(golden["inputs"]["random_blocks"]):
        drawn[head, np.arange(1, len(blocks) + 1)[:, None], blocks] = True
    drawn = drawn.repeat(BLOCK, 1).repeat(BLOCK, 2)
    last = GlobalTokens(tuple(range(LENGTH - BLOCK, LENGTH)))
    pattern = big_bird(BLOCK, n_random=0) | last | from_mask(drawn)
    names = [f"{name}.{kind}" for name in ("query", "key", "value") for kind in ("weight", "bias")]

    def layer(x, *weights):
        heads = [(x @ w.T + b).reshape(*x.shape[:2], 2, 16) for w, b in zip(weights[::2], weights[1::2])]
        return sparse_attention(*heads, pattern=pattern).reshape(x.shape)

    arrays = [jnp.asarray(x) for x in (golden["inputs"]["x"], *(golden["weights"][name] for name in names))]
    out, grad_x, *grads = value_and_grads(layer, arrays, jnp.asarray(golden["inputs"]["cotangent"]["train"]))
    assert distance(out, golden["outputs"]["train"]["out"])[1] <= 1e-5
    assert distance(grad_x, golden["grads"]["train"]["x"])[1] <= 1e-5
    for name, grad in zip(names, grads):
        if name != "key.bias":  # adds the same to all logits of a query: its gradient is rounding
            assert distance(grad, golden["weight_grads"]["train"][name])[1] <= 1e-5


def test_sparse_transformer_equals_openai():
    """The three modes of the original's dense implementation, with gradients."""
    golden = load("openai_sparse_attention")
    patterns = {"all": Causal(), "local": Causal() & SlidingWindow(7), "strided": Strided(8, form="far")}
    heads = lambda x: jnp.asarray(x).reshape(2, 32, 4, 8)
    arrays = tuple(heads(golden["inputs"][name]) for name in "qkv")
    for mode, pattern in patterns.items():
        attend = partial(sparse_attention, pattern=pattern)
        out, *grads = value_and_grads(attend, arrays, heads(golden["inputs"]["cotangent"][mode]))
        assert distance(out.reshape(2, 32, 32), golden["outputs"][mode]["out"])[1] <= 1e-5
        for name, grad in zip("qkv", grads):
            assert distance(grad.reshape(2, 32, 32), golden["grads"][mode][name])[1] <= 1e-5
