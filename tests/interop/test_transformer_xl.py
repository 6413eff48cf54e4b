"""A Transformer-XL language model against Hugging Face's, two segments in turn, gradients included."""

import functools

import jax
import numpy as np
import pytest

from effjax.interop import import_state_dict
from effjax.interop.rules import to_theirs
from effjax.interop.transformer_xl import TRANSFORMER_XL
from effjax.tasks import make_task
from tests.goldens.load import distance, load

VARIANTS = ("hf_transfo_xl", "hf_transfo_xl_same_length")


def config_json(story):
    """The original's configuration in its own words."""
    same = ("vocab_size", "d_model", "d_embed", "n_head", "d_head", "d_inner", "n_layer", "mem_len", "clamp_len")
    more = ("same_length", "div_val", "cutoffs", "proj_share_all_but_first", "tie_projs", "dropout", "dropatt")
    return {name: story[name] for name in same + more} | {"model_type": "transfo-xl", "untie_r": True}


@functools.cache
def golden(variant):
    """The original's tensors, the imported configuration, model and parameters, and the state after each segment."""
    oracle = load(variant)
    config, params = import_state_dict(config_json(oracle["story"]["settings"]), oracle["weights"])
    model = make_task(config).model
    run = jax.jit(functools.partial(model.apply, {"params": params}))
    state, segments = model.initial_state(2, max_length=16), []
    for ids in oracle["inputs"]["ids"]:
        logits, state = run(ids, state)
        segments.append((logits, state))
    return oracle, config, model, params, segments


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_and_memories(variant):
    oracle, _, _, _, segments = golden(variant)
    for segment, (logits, state) in enumerate(segments):
        log_probs = jax.nn.log_softmax(logits)
        assert distance(log_probs, oracle["outputs"][f"log_probs_{segment}"])[1] <= 1e-5
        for layer, memory in oracle["outputs"][f"mems_{segment}"].items():
            ours = state.blocks[0].rows[0][int(layer)]
            assert distance(ours, memory.swapaxes(0, 1))[1] <= 1e-5
    if "losses" in oracle["outputs"]:
        ids = oracle["inputs"]["ids"][1]
        losses = -np.take_along_axis(np.asarray(log_probs)[:, :-1], ids[:, 1:, None], 2)[..., 0]
        assert distance(losses, oracle["outputs"]["losses"])[1] <= 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_a_segment_after_another(variant):
    oracle, config, model, params, segments = golden(variant)
    states = segments[0][1].blocks

    @jax.jit
    def run(stack, embeds, cotangent):
        y, pull = jax.vjp(lambda stack, embeds: model.stack.apply({"params": stack}, embeds, states)[0], stack, embeds)
        return y, *pull(cotangent)

    inputs = oracle["inputs"]
    y, weights, embeds = run(params["stack"], inputs["embeds"], inputs["cotangent"]["segment_1"])
    assert distance(y, oracle["outputs"]["segment_1"]["hidden"])[1] <= 1e-5
    assert distance(embeds, oracle["grads"]["segment_1"]["embeds"])[1] <= 1e-5
    grads = jax.tree.map(np.zeros_like, params) | {"stack": weights}
    grads = to_theirs(TRANSFORMER_XL.layout(config.model), grads)
    for name, expected in oracle["weight_grads"]["segment_1"].items():
        assert distance(grads[name], expected)[1] <= 1e-5, name
