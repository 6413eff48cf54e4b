"""Adaptive vocabularies: within Hugging Face's Transformer-XL, as a read-out, in configurations, and their mistakes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.errors import UserError
from effjax.interop import import_state_dict
from effjax.layers import AdaptiveVocabulary
from effjax.models.build import decoder_config, make_decoder
from effjax.tasks import make_task
from tests.goldens.load import distance, load
from tests.interop.test_transformer_xl import config_json

SMALL = AdaptiveVocabulary(40, 8, cutoffs=(6, 15), div=2, scale=3.0)


def test_within_hugging_face_transformer_xl():
    """Two segments from ids to log-probabilities, losses and memories."""
    golden = load("hf_transfo_xl_adaptive")
    outputs = golden["outputs"]
    config, params = import_state_dict(config_json(golden["story"]["settings"]), golden["weights"])
    config.model.loss_chunk_size = 7
    model = make_task(config).model
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
