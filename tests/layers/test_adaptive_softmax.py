"""Adaptive vocabularies: within Hugging Face's Transformer-XL, as a read-out, in configurations, and their mistakes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.errors import UserError
from effjax.layers import AdaptiveVocabulary
from effjax.models.build import decoder_config, make_decoder
from tests.goldens.load import distance, load
from tests.models.test_transformer_xl_goldens import parameters

SMALL = AdaptiveVocabulary(40, 8, cutoffs=(6, 15), div=2, scale=3.0)


def vocabulary(weights, clusters):
    """The original's tables, biases and projections under our names; only the head's projection is not shared."""
    table = lambda name: jnp.asarray(weights[name])
    params = {"tail_table": table("crit.cluster_weight"), "tail_bias": table("crit.cluster_bias")}
    for i in range(clusters):
        params[f"table_{i}"] = table(f"transformer.word_emb.emb_layers.{i}.weight")
        params[f"projection_{i}"] = table(f"transformer.word_emb.emb_projs.{i}")
        params[f"bias_{i}"] = table(f"crit.out_layers.{i}.bias")
    return params | {"head_projection": table("crit.out_projs.0")}


def test_within_hugging_face_transformer_xl():
    """Two segments from ids to log-probabilities, losses and memories."""
    golden = load("hf_transfo_xl_adaptive")
    settings, outputs = golden["story"]["settings"], golden["outputs"]
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
        embedding="adaptive",
        embedding_scale=settings["d_model"] ** 0.5,
        loss_chunk_size=7,
    )
    config.adaptive.update(cutoffs=tuple(settings["cutoffs"]), div=settings["div_val"])
    config.transformer_xl.update(memory_length=settings["mem_len"], untie_biases=True, zero_memory=True)
    model = make_decoder(config, vocab_size=settings["vocab_size"])
    params = parameters(golden["weights"], settings) | {"vocabulary": vocabulary(golden["weights"], 3)}
    expected = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    jax.tree.map(lambda ours, theirs: np.testing.assert_equal(ours.shape, theirs.shape), params, expected)

    state, run = model.initial_state(2, max_length=32), jax.jit(functools.partial(model.apply, {"params": params}))
    before = None
    for segment, ids in enumerate(golden["inputs"]["ids"]):
        before = state
        log_probs, state = run(ids, state)
        assert distance(log_probs, outputs[f"log_probs_{segment}"])[1] <= 1e-5
        for layer, memory in outputs[f"mems_{segment}"].items():
            assert distance(state.blocks[0].rows[0][int(layer)], memory.swapaxes(0, 1))[1] <= 1e-5
    nats, _ = jax.jit(functools.partial(model.apply, {"params": params}, method="nats"))(
        ids[:, :-1], ids[:, 1:], before
    )
    # Theirs stand cluster by cluster, whatever the order of the text.
    assert distance(np.sort(nats, axis=None), np.sort(outputs["losses"], axis=None))[1] <= 1e-5


@functools.cache
def small():
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 40, (2, 9)), jnp.int32)
    params = SMALL.init(jax.random.key(0), jnp.ones((1, 1, 8)), method="logits")
    return params, tokens


def test_embeddings_are_rows_of_their_own_cluster():
    params, tokens = small()
    own = {name: np.asarray(leaf) for name, leaf in params["params"].items()}
    x = np.asarray(SMALL.apply(params, tokens, method="embed"))
    for place in np.ndindex(tokens.shape):
        cluster = np.searchsorted((6, 15), tokens[place], side="right")
        row = own[f"table_{cluster}"][int(tokens[place]) - (0, 6, 15)[cluster]]
        np.testing.assert_allclose(x[place], 3 * own[f"projection_{cluster}"] @ row, rtol=1e-5, atol=1e-6)


def test_losses_are_those_of_the_scores_which_are_normalised():
    params, tokens = small()
    hidden = jnp.asarray(np.random.default_rng(1).normal(size=(2, 9, 8)), jnp.float32)
    logits = SMALL.apply(params, hidden, method="logits")
    np.testing.assert_allclose(jnp.exp(logits).sum(-1), 1, rtol=1e-5)
    nats = SMALL.apply(params, hidden, tokens, method="nats")
    np.testing.assert_allclose(nats, -jnp.take_along_axis(logits, tokens[..., None], -1)[..., 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (dict(), 30 * 8 + 30 + 2 * 8 + 2),  # one width: no projections
        (dict(tie_head=True, div=2), (4 * 8 + 6 * 4 + 20 * 2) + 30 + (2 * 8 + 2) + 8 * (8 + 4 + 2)),
        (dict(div=2), (4 * 8 + 6 * 4 + 20 * 2) + 30 + (2 * 8 + 2) + 8 * (8 + 8 + 4 + 2)),
        (dict(d_embed=3), 30 * 3 + 30 + (2 * 3 + 2) + 4 * 8 * 3),
    ],
)
def test_parameters(options, expected):
    layer = AdaptiveVocabulary(30, 8, cutoffs=(4, 10), **options)
    params = jax.eval_shape(functools.partial(layer.init, method="logits"), jax.random.key(0), jnp.zeros((1, 1, 8)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(cutoffs=()), r"cutoffs=\(\)"),
        (dict(cutoffs=(10, 5)), r"cutoffs=\(10, 5\)"),
        (dict(cutoffs=(10, 30)), r"cutoffs=\(10, 30\).*1 to 29"),
        (dict(cutoffs=(10,), div=9), "div=9 leaves nothing"),
        (dict(cutoffs=(10,), div=0), "div=0"),
        (dict(cutoffs=(10,), d_embed=-1), "d_embed=-1"),
    ],
)
def test_mistakes_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        AdaptiveVocabulary(30, 8, **options)


def test_mistakes_in_configurations_are_named():
    config = decoder_config()
    config.embedding = "adaptive"
    with pytest.raises(UserError, match="cutoffs="):
        make_decoder(config, vocab_size=256)
    config.residual = "reversible"
    with pytest.raises(UserError, match="embedding='adaptive' with"):
        make_decoder(config, vocab_size=256)
    config.embedding = "narrow"
    with pytest.raises(UserError, match="embedding='narrow'; 'full' or 'adaptive'"):
        make_decoder(config, vocab_size=256)
