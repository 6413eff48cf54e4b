"""The reversible decoder as a whole against Hugging Face's Reformer: logits and the gradient of every weight.

Positions that find only themselves have weights off by up to 0.4 % there (`tests/ops/test_lsh_goldens.py`), and a stack
mixes them into all others: the logits agree to 2e-3, and the gradients to 1e-2.
"""

import jax
import jax.numpy as jnp
import numpy as np

from effjax.layers import LSHAttention
from effjax.models.build import decoder_config, make_decoder
from tests.goldens.load import distance, load

MIXERS = ("local", "lsh", "lsh")


def ours(weights):
    """Their weights, or gradients of them, under our names: linear maps transposed, heads apart, one repeat."""
    heads = lambda kernel: kernel.T.reshape(32, 2, 16)
    period = {}
    for i, mixer in enumerate(MIXERS):
        theirs = lambda name, i=i: weights[f"reformer.encoder.layers.{i}.{name}"]
        names = ("query", "key", "value") if mixer == "local" else ("query_key", "value")
        attention = {name: {"kernel": heads(theirs(f"attention.self_attention.{name}.weight"))} for name in names}
        attention["out"] = {"kernel": theirs("attention.output.dense.weight").T.reshape(2, 16, 32)}
        linear = lambda name, theirs=theirs: {"kernel": theirs(f"{name}.weight").T, "bias": theirs(f"{name}.bias")}
        norm = lambda name, theirs=theirs: {"scale": theirs(f"{name}.weight"), "bias": theirs(f"{name}.bias")}
        feed_forward = {"inner": linear("feed_forward.dense.dense"), "outer": linear("feed_forward.output.dense")}
        period[f"mixing_{i}"] = {"norm": norm("attention.layer_norm"), "mixer": attention}
        period[f"feeding_{i}"] = {"norm": norm("feed_forward.layer_norm"), "feed_forward": feed_forward}
    axes = [weights[f"reformer.embeddings.position_embeddings.weights.{i}"].reshape(8, -1) for i in (0, 1)]
    return {
        "stack": {"period": jax.tree.map(lambda leaf: leaf[None], period)},
        "positions": {"axis_0": axes[0], "axis_1": axes[1]},
        "norm": {
            name: weights[f"reformer.encoder.layer_norm.{old}"] for name, old in (("scale", "weight"), ("bias",) * 2)
        },
        "vocabulary": {"head": {"kernel": weights["lm_head.decoder.weight"].T, "bias": weights["lm_head.bias"]}},
    }


def test_logits_and_gradients_are_hugging_faces(monkeypatch):
    golden = load("hf_reformer_lm")
    config = decoder_config(pattern=MIXERS)
    config.update(d_model=32, d_ff=48, n_heads=2, head_dim=16, n_layers=3, residual="reversible", norm_epsilon=1e-12)
    config.update(positions="axial")
    config.axial.update(shape=(8, 8), dims=(8, 24))
    config.local.chunk_size = 8
    config.lsh.update(chunk_size=8, n_hashes=2, n_buckets=8)
    model = make_decoder(config, vocab_size=40)
    rotations = jnp.asarray(golden["inputs"]["rotations"])
    monkeypatch.setattr(LSHAttention, "rotations", lambda self, n_buckets: rotations)
    params = ours(golden["weights"])
    table = golden["weights"]["reformer.embeddings.word_embeddings.weight"]
    params["vocabulary"]["embedding"] = {"embedding": table}

    @jax.jit
    def run(params):
        apply = lambda params: model.apply({"params": params}, jnp.asarray(golden["inputs"]["ids"], jnp.int32))[0]
        logits, pullback = jax.vjp(apply, params)
        return logits, pullback(jnp.asarray(golden["inputs"]["cotangent"]["lm"]))[0]

    logits, grads = run(jax.tree.map(jnp.asarray, params))
    assert distance(logits, golden["outputs"]["lm"]["logits"])[1] <= 2e-3
    expected_table = np.zeros_like(table)
    np.add.at(expected_table, golden["inputs"]["ids"], golden["grads"]["lm"]["embeds"])
    assert distance(grads["vocabulary"].pop("embedding")["embedding"], expected_table)[1] <= 1e-2
    distances = jax.tree.map(lambda a, b: distance(a, b)[1], grads, ours(golden["weight_grads"]["lm"]))
    assert max(jax.tree.leaves(distances)) <= 1e-2, distances
