"""The classifier: padding, pooling, two towers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.errors import UserError
from effjax.models.arena import BOTH_SIDES, arena_model
from effjax.models.classifier import make_classifier

LENGTH, SHORT, VOCABULARY = 24, 17, 20
MIXERS = [pytest.param(name, marks=() if name == "full" else pytest.mark.slow) for name in BOTH_SIDES]


@functools.cache
def made(mixer="full", **attributes):
    """A small classifier, its parameters and its compiled call."""
    section = arena_model(d_model=16, n_heads=2, n_layers=1, d_ff=24, dropout=0.0)
    section.pattern = (mixer,)
    section.longformer.window = (4,)
    section.linformer.update(n_projected=6, max_length=LENGTH + 1)
    section.fixed.update(block=8, summary=2)
    section.big_bird.update(block=4, n_random=1, among=8)
    section.window.window = (5,)
    section.local.chunk_size = 8
    section.lsh.update(chunk_size=8, n_buckets=4)
    section.nystromformer.n_landmarks = 4
    model = make_classifier(section, vocab_size=VOCABULARY, **dict(n_classes=3, d_hidden=12) | attributes)
    one = (jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)) * model.towers
    params = model.init(jax.random.key(0), *one)
    return model, params, jax.jit(model.apply)


def documents(seed=0, rows=2):
    """Two documents of unlike lengths, and where they are."""
    tokens = np.random.default_rng(seed).integers(0, VOCABULARY, (rows, LENGTH), np.int32)
    return tokens, np.arange(LENGTH) < np.array([LENGTH, SHORT])[:rows, None]


@pytest.mark.parametrize("mixer", MIXERS)
def test_padding_changes_nothing(mixer):
    _, params, apply = made(mixer)
    tokens, there = documents()
    logits = apply(params, tokens, there)
    other = np.where(there, tokens, -(2**31))  # no id at all
    np.testing.assert_array_equal(apply(params, other, there), logits)
    if mixer != "lsh":  # whose chunks follow from the length of the batch
        alone = apply(params, tokens[1:, :SHORT], there[1:, :SHORT])
        np.testing.assert_allclose(logits[1:], alone, rtol=2e-5, atol=2e-6)


def test_cls_reads_what_stands_at_a_token_in_front():
    model, params, apply = made()
    tokens, there = documents()
    before = np.concatenate([np.full((2, 1), VOCABULARY, np.int32), tokens], axis=1)
    hidden = hidden_of(model, params, before, np.concatenate([np.ones((2, 1), bool), there], axis=1))
    np.testing.assert_allclose(read_out(params, hidden[:, 0]), apply(params, tokens, there), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_mean_is_that_of_real_tokens():
    model, params, apply = made(pooling="mean")
    tokens, there = documents()
    hidden = hidden_of(model, params, tokens, there)
    means = np.stack([np.asarray(row)[real].mean(axis=0) for row, real in zip(hidden, there)])
    np.testing.assert_allclose(read_out(params, means), apply(params, tokens, there), rtol=1e-5, atol=1e-6)


def hidden_of(model, params, tokens, there):
    """What the encoder by itself makes of tokens."""
    run = jax.jit(
        lambda params, tokens, there: model.encoder.apply(params, tokens, padding_mask=there, method="hidden")
    )
    return run({"params": params["params"]["encoder"]}, tokens, there)[0]


def read_out(params, x):
    params = params["params"]
    layers = [*(params[name] for name in sorted(params) if name.startswith("hidden")), params["out"]]
    for i, layer in enumerate(layers):
        x = x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        x = x if i == len(layers) - 1 else np.maximum(x, 0)
    return x


@pytest.mark.slow
@pytest.mark.parametrize(
    ("interaction", "meet"),
    [
        ("concat", lambda a, b: [a, b]),
        pytest.param("nli", lambda a, b: [a, b, a * b, a - b], marks=pytest.mark.slow),
    ],
)
def test_two_towers_are_one_encoder_and_do_not_see_each_other(interaction, meet):
    model, params, apply = made(towers=2, interaction=interaction)
    (a, a_there), (b, b_there) = documents(0), documents(1)
    vectors = jax.jit(lambda params, *x: model.apply(params, *x, method="vectors"))
    x = np.concatenate(meet(*(np.asarray(vectors(params, *x)) for x in ((a, a_there), (b, b_there)))), axis=-1)
    np.testing.assert_allclose(read_out(params, x), apply(params, a, a_there, b, b_there), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (dict(pooling="max"), "pooling='max'; one of cls, mean"),
        (dict(interaction="sum"), "interaction='sum'"),
        (dict(towers=3), "towers=3; one of 1, 2"),
        (dict(n_classes=0), "n_classes=0"),
    ],
)
def test_settings_that_make_no_sense_are_named(attributes, message):
    with pytest.raises(UserError, match=message):
        made(**attributes)


def test_a_mixer_that_looks_back_only_is_refused():
    section = arena_model(d_model=16, n_heads=2, n_layers=1, d_ff=24, dropout=0.0)
    section.full.causal = True
    with pytest.raises(UserError, match="FullAttention is causal"):
        make_classifier(section, vocab_size=9, n_classes=2)
