"""An imported Reformer, reversible with LSH layers, against Hugging Face's: logits and the gradient of every weight.

Positions that find only themselves have weights off by up to 0.4 % there (`tests/ops/test_lsh_goldens.py`), and a stack
mixes them into all others: the logits agree to 2e-3, and the gradients to 1e-2. With local layers alone all agree to
1e-5 (`tests/interop/test_goldens.py`).
"""

import jax
import jax.numpy as jnp
import numpy as np

from effjax.interop import import_state_dict
from effjax.interop.reformer import REFORMER
from effjax.interop.rules import to_theirs
from effjax.layers import LSHAttention
from effjax.tasks import make_task
from tests.goldens.load import distance, load


def config_json(story):
    """The original's configuration in its own words."""
    return {
        "model_type": "reformer",
        "is_decoder": True,
        "vocab_size": story["vocab"],
        "hidden_size": story["hidden"],
        "num_attention_heads": story["heads"],
        "attention_head_size": story["head_dim"],
        "feed_forward_size": story["ff"],
        "attn_layers": story["layers"],
        "num_hashes": story["hashes"],
        "num_buckets": story["buckets"],
        "local_attn_chunk_length": story["chunk"],
        "lsh_attn_chunk_length": story["chunk"],
        "axial_pos_shape": story["axial_shape"],
        "axial_pos_embds_dim": story["axial_dims"],
        "layer_norm_eps": story["layer_norm_eps"],
        "hidden_act": story["activation"],
        "hidden_dropout_prob": 0.0,
        "local_attention_probs_dropout_prob": 0.0,
    }


def test_logits_and_gradients_are_hugging_faces(monkeypatch):
    golden = load("hf_reformer_lm")
    config, params = import_state_dict(config_json(golden["story"]["settings"]), golden["weights"])
    model = make_task(config).model
    rotations = jnp.asarray(golden["inputs"]["rotations"])
    monkeypatch.setattr(LSHAttention, "rotations", lambda self, n_buckets: rotations)

    @jax.jit
    def run(params):
        apply = lambda params: model.apply({"params": params}, jnp.asarray(golden["inputs"]["ids"], jnp.int32))[0]
        logits, pullback = jax.vjp(apply, params)
        return logits, pullback(jnp.asarray(golden["inputs"]["cotangent"]["lm"]))[0]

    logits, grads = run(params)
    assert distance(logits, golden["outputs"]["lm"]["logits"])[1] <= 2e-3
    grads = to_theirs(REFORMER.layout(config.model), grads)
    words = grads.pop("reformer.embeddings.word_embeddings.weight")
    expected = np.zeros_like(words)
    np.add.at(expected, golden["inputs"]["ids"], golden["grads"]["lm"]["embeds"])
    assert distance(words, expected)[1] <= 1e-2
    distances = {name: distance(grad, golden["weight_grads"]["lm"][name])[1] for name, grad in grads.items()}
    assert max(distances.values()) <= 1e-2, distances
