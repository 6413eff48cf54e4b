"""Foreign checkpoints become models here that give the same outputs and gradients, and go back without loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.interop import export_state_dict, import_state_dict
from effjax.interop.convert import ARCHITECTURES
from effjax.interop.rules import to_theirs
from effjax.layers import sparse
from effjax.ops.patterns import GlobalTokens, big_bird, from_mask
from effjax.ops.sparse import sparse_attention
from effjax.tasks import make_task
from tests.goldens.load import distance, load

GOLDENS = ("hf_longformer_mlm", "hf_big_bird_full", "hf_big_bird_sparse", "hf_reformer_local_lm")


def settings_of(golden):
    """The original's `config.json`."""
    return golden["story"]["settings"]


def imported(golden, settings):
    """The model and its parameters, and the way back of gradients."""
    config, params = import_state_dict(settings, golden["weights"])
    layout = ARCHITECTURES[settings["model_type"]].layout(config.model)
    model = make_task(config).model
    return config, model, params, lambda grads: to_theirs(layout, grads)


@functools.cache
def logits_and_gradients(name):
    """Of a model with a head: logits, gradients of the embeddings, gradients of all weights under their names."""
    golden = load(name)
    _, model, params, back = imported(golden, settings_of(golden))
    ids = jnp.asarray(golden["inputs"]["ids"], jnp.int32)
    marks = {
        key: jnp.asarray(golden["inputs"][key]) for key in ("global_mask", "token_types") if key in golden["inputs"]
    }
    if "global_mask" in marks:
        marks["global_mask"] = marks["global_mask"] > 0

    @jax.jit
    def run(params, cotangent):
        logits, pull = jax.vjp(lambda params: model.apply({"params": params}, ids, **marks)[0], params)
        return logits, *pull(cotangent)

    logits, grads = run(params, golden["inputs"]["cotangent"]["logits"])
    return golden, logits, back(grads)


@pytest.fixture(autouse=True)
def drawn_blocks(monkeypatch):
    """BigBird's random blocks are no weights: those that numpy drew for each of its layers come in as a mask."""
    drawn = load("hf_big_bird_sparse")["inputs"]["random_blocks"]

    def attention(q, k, v, *, block, seed, implementation, n_random, among, n_window, n_global, **rules):
        length = q.shape[1]
        if length < block:  # the call that makes parameters
            return v
        blocks = np.zeros((2, length // block, length // block), bool)
        for head, rows in enumerate(drawn[seed]):
            blocks[head, np.arange(1, len(rows) + 1)[:, None], rows] = True
        last = GlobalTokens(tuple(range(length - block, length)))
        mask = from_mask(blocks.repeat(block, 1).repeat(block, 2))
        pattern = big_bird(block, n_random=0, n_window=n_window, n_global=n_global) | last | mask
        return sparse_attention(q, k, v, pattern=pattern, implementation=implementation, **rules)

    monkeypatch.setattr(sparse, "big_bird_attention", attention)


SLOW = ("hf_longformer_mlm", "hf_big_bird_sparse")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in GOLDENS])
def test_logits_and_gradients_are_the_originals(name):
    golden, logits, grads = logits_and_gradients(name)
    assert distance(logits, golden["outputs"]["logits"])[1] <= 1e-5
    theirs = dict(golden["weight_grads"]["logits"])
    words = next(name for name in grads if name.endswith("word_embeddings.weight"))
    inputs = np.zeros_like(grads[words])
    np.add.at(inputs, golden["inputs"]["ids"], golden["grads"]["logits"]["embeds"])
    assert distance(grads.pop(words), inputs + theirs.pop(words, 0))[1] <= 1e-5
    largest = max(np.abs(grad).max() for grad in theirs.values())
    for weight, grad in grads.items():  # key biases have no gradient but rounding
        assert np.abs(grad - theirs.pop(weight, 0)).max() <= 1e-5 * largest, weight
    assert all(name.startswith(("lm_head.decoder", "cls.predictions.decoder")) for name in theirs), theirs.keys()


def test_a_longformer_without_a_head():
    """Hidden states from ids, some of them global, and the gradient of their embeddings."""
    golden = load("hf_longformer_model")
    story, inputs = golden["story"]["settings"], golden["inputs"]
    settings = {
        "model_type": "longformer",
        "vocab_size": story["vocab"],
        "hidden_size": story["hidden"],
        "num_hidden_layers": story["layers"],
        "num_attention_heads": story["heads"],
        "intermediate_size": story["ff"],
        "attention_window": story["window"],
        "layer_norm_eps": story["layer_norm_eps"],
        "hidden_act": story["activation"],
        "max_position_embeddings": 70,
        "type_vocab_size": 1,
    }
    config, model, params, _ = imported(golden, settings)
    ids, mask = jnp.asarray(inputs["ids"], jnp.int32), jnp.asarray(inputs["global_mask"] > 0)

    @jax.jit
    def run(params, cotangent):
        hidden = lambda params: model.apply({"params": params}, ids, global_mask=mask, method="hidden")[0]
        out, pull = jax.vjp(hidden, params)
        return out, pull(cotangent)[0]["vocabulary"]["embedding"]["embedding"]

    out, grad = run(params, inputs["cotangent"]["embeds"])
    assert distance(out, golden["outputs"]["embeds"]["out"])[1] <= 1e-5
    assert distance(out, golden["outputs"]["ids"]["hidden"])[1] <= 1e-5
    expected = np.zeros_like(grad)
    np.add.at(expected, inputs["ids"], golden["grads"]["embeds"]["embeds"])
    assert distance(grad, expected)[1] <= 1e-5
    back, tensors = export_state_dict(config, params)
    assert back["architectures"] == ["LongformerModel"] and set(tensors) == set(golden["weights"])


@pytest.mark.parametrize("name", [name for name in GOLDENS if "reformer" not in name])
def test_an_export_is_what_was_imported(name):
    golden = load(name)
    config, _, params, _ = imported(golden, settings_of(golden))
    settings, tensors = export_state_dict(config, params)
    assert settings.items() <= (settings_of(golden) | {"torch_dtype": "float32"}).items()
    for weight, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, golden["weights"][weight])
    left_out = set(golden["weights"]) - set(tensors)
    assert all(".decoder." in name or ".pooler." in name for name in left_out), left_out
