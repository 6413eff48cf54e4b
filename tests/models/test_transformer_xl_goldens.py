"""A Transformer-XL language model against Hugging Face's, two segments in turn, gradients included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.models.build import decoder_config, make_decoder
from tests.goldens.load import distance, load

VARIANTS = ("hf_transfo_xl", "hf_transfo_xl_same_length")


@functools.cache
def golden(variant):
    """The original's tensors, our model of its settings, its parameters, and the state after each segment."""
    oracle = load(variant)
    settings = oracle["story"]["settings"]
    config = decoder_config(("transformer_xl",))
    config.update(
        d_model=settings["d_model"],
        d_ff=settings["d_inner"],
        n_heads=settings["n_head"],
        head_dim=settings["d_head"],
        n_layers=settings["n_layer"],
        norm="post",
        norm_epsilon=1e-5,
        positions="none",
        tie_embeddings=True,
        embedding_scale=settings["d_model"] ** 0.5,
    )
    clamp = settings["clamp_len"]
    config.transformer_xl.update(
        memory_length=settings["mem_len"], same_length=settings["same_length"], untie_biases=True, zero_memory=True
    )
    config.transformer_xl.clamp_length = clamp if clamp >= 0 else None
    model = make_decoder(config, vocab_size=settings["vocab_size"])
    params = parameters(oracle["weights"], settings)
    expected = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    jax.tree.map(lambda ours, theirs: np.testing.assert_equal(ours.shape, theirs.shape), params, expected)
    run = jax.jit(functools.partial(model.apply, {"params": params}))
    state, segments = model.initial_state(2, max_length=16), []
    for ids in oracle["inputs"]["ids"]:
        logits, state = run(ids, state)
        segments.append((logits, state))
    return oracle, model, params, segments


def parameters(weights, settings):
    """The original's tensors under our names; also what gradients of them are, since only axes change."""

    def layer(i):
        of = lambda name: np.asarray(weights[f"transformer.layers.{i}.{name}"])
        heads = (settings["d_model"], settings["n_head"], settings["d_head"])
        query, key, value = (part.T.reshape(heads) for part in np.split(of("dec_attn.qkv_net.weight"), 3))
        norm = lambda name: {"scale": of(f"{name}.layer_norm.weight"), "bias": of(f"{name}.layer_norm.bias")}
        linear = lambda name: {"kernel": of(f"{name}.weight").T, "bias": of(f"{name}.bias")}
        mixer = {
            "query": {"kernel": query},
            "key": {"kernel": key},
            "value": {"kernel": value},
            "distance": {"kernel": of("dec_attn.r_net.weight").T.reshape(heads)},
            "out": {"kernel": of("dec_attn.o_net.weight").T.reshape(*heads[1:], heads[0])},
            "content_bias": of("dec_attn.r_w_bias"),
            "position_bias": of("dec_attn.r_r_bias"),
        }
        return {
            "mixing_0": {"mixer": mixer, "norm": norm("dec_attn")},
            "feeding_0": {
                "feed_forward": {"inner": linear("pos_ff.CoreNet.0"), "outer": linear("pos_ff.CoreNet.3")},
                "norm": norm("pos_ff"),
            },
        }

    layers = [layer(i) for i in range(settings["n_layer"])]
    tree = {"stack": {"period": jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)}}
    if "crit.out_layers.0.bias" in weights:
        table = jnp.asarray(weights["transformer.word_emb.emb_layers.0.weight"])
        tree["vocabulary"] = {"embedding": {"embedding": table}, "bias": jnp.asarray(weights["crit.out_layers.0.bias"])}
    return tree


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_and_memories(variant):
    oracle, _, _, segments = golden(variant)
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
    oracle, model, params, segments = golden(variant)
    states = segments[0][1].blocks

    @jax.jit
    def run(stack, embeds, cotangent):
        y, pull = jax.vjp(lambda stack, embeds: model.stack.apply({"params": stack}, embeds, states)[0], stack, embeds)
        return y, *pull(cotangent)

    inputs = oracle["inputs"]
    y, weights, embeds = run(params["stack"], inputs["embeds"], inputs["cotangent"]["segment_1"])
    assert distance(y, oracle["outputs"]["segment_1"]["hidden"])[1] <= 1e-5
    assert distance(embeds, oracle["grads"]["segment_1"]["embeds"])[1] <= 1e-5
    expected = parameters(oracle["weight_grads"]["segment_1"], oracle["story"]["settings"])["stack"]
    jax.tree.map(lambda ours, theirs: np.testing.assert_array_less(distance(ours, theirs)[1], 1e-5), weights, expected)
