"""Linformer and Nystromformer layers beyond the laws: parameters by sharing, what they refuse, and why."""

import functools

import jax
import jax.numpy as jnp
import pytest

from effjax.errors import UserError
from effjax.layers import FeedForward, LinformerAttention, NystromAttention, Vocabulary
from effjax.models.block import Period
from effjax.models.build import decoder_config, encoder_config, make_decoder, make_encoder
from effjax.models.encoder import Encoder
from effjax.models.stack import Stack

SIZES = dict(d_model=8, n_heads=2, head_dim=4)
LAYERS, PROJECTED, LONGEST = 3, 5, 16


def small_encoder(sharing):
    mixer = functools.partial(LinformerAttention, **SIZES, n_projected=PROJECTED, max_length=LONGEST, sharing=sharing)
    stack = Stack(Period((mixer,), functools.partial(FeedForward, 8, 8)), LAYERS)
    return Encoder(functools.partial(Vocabulary, 11, 8), stack)


@pytest.mark.parametrize(
    ("sharing", "matrices"),
    [("none", 2 * LAYERS * 2), ("headwise", 2 * LAYERS), ("key_value", LAYERS), ("layerwise", 1)],
)
def test_parameters_by_sharing(sharing, matrices):
    """Invariant 5: 2 L h k n, 2 L k n, L k n, k n."""
    model = small_encoder(sharing)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    sizes = [leaf.size for path, leaf in leaves if "length_projection" in path[-1].key]
    assert sum(sizes) == matrices * PROJECTED * LONGEST
    assert model.max_length == LONGEST and not model.streams_forever


def test_the_projection_of_all_layers_gets_every_layers_gradient():
    model = small_encoder("layerwise")
    tokens = jax.random.randint(jax.random.key(1), (1, LONGEST), 0, 11)
    params = jax.jit(model.init)(jax.random.key(0), tokens)

    def loss(shared, params):
        params = {"params": params["params"] | {"shared": shared}}
        return jnp.mean(model.apply(params, tokens, tokens, method="nats")[0])

    gradient = jax.jit(jax.grad(loss))(params["params"]["shared"], params)["length_projection"]
    assert gradient.shape == (PROJECTED, LONGEST) and (jnp.abs(gradient) > 0).all()


@pytest.mark.parametrize("name", ["linformer", "nystromformer"])
def test_a_decoder_refuses(name):
    small = dict(d_model=8, d_ff=8, n_heads=2, head_dim=4, n_layers=1)
    config = decoder_config((name,))
    config.update(small)
    with pytest.raises(UserError, match="mixes the whole sequence before any position sees it"):
        make_decoder(config, vocab_size=11)
    encoder = encoder_config((name, "full"))
    encoder.update(small | dict(n_layers=2))
    assert isinstance(make_encoder(encoder, vocab_size=11), Encoder)
    encoder.full.causal = True
    with pytest.raises(UserError, match="FullAttention is causal"):
        make_encoder(encoder, vocab_size=11)
    with pytest.raises(ValueError, match="an encoder has no state"):
        small_encoder("none").initial_state(1, max_length=4)


@pytest.mark.parametrize(
    "make, options, words",
    [
        (LinformerAttention, dict(causal=True), "causal=True: LinformerAttention mixes the whole sequence"),
        (LinformerAttention, dict(rotary=True), "rotary=True"),
        (LinformerAttention, dict(sharing="heads"), "sharing='heads'"),
        (LinformerAttention, dict(n_projected=0), "n_projected=0"),
        (LinformerAttention, dict(max_length=0), "max_length=0"),
        (NystromAttention, dict(causal=True), "causal=True: NystromAttention mixes the whole sequence"),
        (NystromAttention, dict(n_landmarks=0), "n_landmarks=0"),
        (NystromAttention, dict(kernel_size=4), "kernel_size=4"),
        (NystromAttention, dict(inverse_start="exact"), "inverse_start='exact'"),
    ],
)
def test_mistakes_are_named(make, options, words):
    with pytest.raises(ValueError, match=words):
        make(**SIZES, **options)


@pytest.mark.parametrize("layer", [LinformerAttention(**SIZES), NystromAttention(**SIZES)])
def test_no_state(layer):
    with pytest.raises(ValueError, match="it serves encoders only"):
        layer.initial_state(1, max_length=4)
    params = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 4, 8)))
    with pytest.raises(ValueError, match=r"state: .* it serves encoders only"):
        jax.eval_shape(layer.apply, params, jnp.zeros((1, 4, 8)), ())
