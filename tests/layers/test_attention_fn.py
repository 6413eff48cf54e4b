"""Families within Flax's own multi-head attention: parameters stay, masks are honoured or refused."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax import attention_fn

LENGTH = 12
X = jax.random.normal(jax.random.key(0), (2, LENGTH, 16))
THERE = jnp.arange(LENGTH) < jnp.array([[LENGTH], [9]])
KEYS = THERE[:, None, None]
PAIRS = nn.combine_masks(nn.make_attention_mask(THERE, THERE, dtype=bool), nn.make_causal_mask(THERE, dtype=bool))
ALL = dict(window=LENGTH)


@functools.cache
def layer(**options):
    return nn.MultiHeadDotProductAttention(num_heads=2, **options)


PARAMS = layer().init(jax.random.key(1), X)


def mix(attention=None, mask=None, x=X, **options):
    options |= {} if attention is None else {"attention_fn": attention}
    return jax.jit(lambda x: nn.MultiHeadDotProductAttention(num_heads=2, **options).apply(PARAMS, x, mask=mask))(x)


@pytest.mark.parametrize(
    ("attention", "mask", "reference"),
    [
        (attention_fn("full"), PAIRS, PAIRS),
        (attention_fn("window", **ALL), KEYS, KEYS),
        (attention_fn("window", causal=True, full_mask="padding", **ALL), PAIRS, PAIRS),
        (attention_fn("longformer", window=1, global_tokens=LENGTH), KEYS, KEYS),
        (attention_fn("local", causal=True, chunk_size=4, look_back=2), KEYS, PAIRS),
    ],
)
def test_a_family_that_sees_everything_is_flax_own_attention(attention, mask, reference):
    there = np.asarray(THERE)
    np.testing.assert_allclose(mix(attention, mask)[there], mix(None, reference)[there], atol=2e-6)


def test_windows_are_a_mask_and_batches_may_have_any_axes():
    behind = np.arange(LENGTH)[:, None] - np.arange(LENGTH)
    expected = mix(None, jnp.asarray((behind >= 0) & (behind < 3))[None, None])
    ours = mix(attention_fn("window", causal=True, window=3), x=X[:, None])
    np.testing.assert_allclose(ours[:, 0], expected, atol=2e-6)


@pytest.mark.parametrize("family", ["performer", "nystromformer"])
def test_padding_changes_nothing_where_weights_are_estimated(family):
    accurate = dict(n_features=4096) if family == "performer" else dict(n_landmarks=LENGTH, iterations=12)
    attention = attention_fn(family, **accurate)
    x = 0.5 * X  # estimates of great weights need many features
    padded = mix(attention, KEYS, x=x)
    changed = mix(attention, KEYS, x=jnp.where(THERE[..., None], x, 7.0))
    np.testing.assert_array_equal(padded[np.asarray(THERE)], changed[np.asarray(THERE)])
    exact = mix(None, KEYS, x=x)
    assert jnp.sqrt(jnp.mean((padded - exact)[THERE] ** 2) / jnp.mean(exact[THERE] ** 2)) < 0.2


def test_full_attends_across_and_decodes_as_flax_does():
    y = X[:, :5]
    ours = layer(attention_fn=attention_fn("full")).apply(PARAMS, y, X)
    np.testing.assert_allclose(ours, layer().apply(PARAMS, y, X), atol=2e-6)
    steps = {}
    for name, options in (("ours", {"attention_fn": attention_fn("full")}), ("flax", {})):
        decoder = layer(decode=True, **options)
        cache = decoder.init(jax.random.key(1), X)["cache"]
        steps[name], _ = decoder.apply({**PARAMS, "cache": cache}, X[:, :1], mutable=["cache"])
    np.testing.assert_allclose(steps["ours"], steps["flax"], atol=2e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: attention_fn("lsh"), "shares one projection"),
        (lambda: attention_fn("transformer_xl"), "has parameters beyond"),
        (lambda: attention_fn("light_conv"), "is no attention"),
        (lambda: attention_fn("sparse"), "one of big_bird, fixed, full"),
        (lambda: attention_fn("window", windw=3), "windw: options of 'window' are .*window"),
        (lambda: attention_fn("strided", qk_head_dim=1), "qk_head_dim: options of 'strided' are .*inclusive"),
        (lambda: attention_fn("window", window=0), "window is -1"),
        (lambda: attention_fn("full", full_mask="all"), "full_mask='all'; one of refuse, padding"),
        (lambda: attention_fn("nystromformer", causal=True), "mixes the whole sequence"),
        (lambda: mix(attention_fn("window", **ALL), PAIRS), "taken for padding with full_mask='padding'"),
        (lambda: mix(attention_fn("window", **ALL), precision="highest"), "precision=.*only None"),
        (lambda: layer(attention_fn=attention_fn("window")).apply(PARAMS, X, X[:, :5]), "12 queries and 5 keys"),
        (lambda: layer(attention_fn=attention_fn("full")).apply(PARAMS, X, sow_weights=True), "sow_weights=True"),
        (lambda: attention_fn("window")(X[..., None], X[..., None], X[..., None], bias=1.0), "bias with family"),
        (
            lambda: layer(attention_fn=attention_fn("performer"), dropout_rate=0.5).apply(
                PARAMS, X, deterministic=False, rngs={"dropout": jax.random.key(0)}
            ),
            "dropout_rate=0.5 with family='performer'",
        ),
    ],
)
def test_what_cannot_be_honoured_is_an_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
