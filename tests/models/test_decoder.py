import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.errors import UserError
from effjax.models.build import decoder_config, make_decoder
from tests.laws import stacks


@pytest.mark.parametrize("loss_chunk_size", [0, 4])
def test_nats_are_the_cross_entropy_of_the_logits(loss_chunk_size):
    model, params = stacks.make_decoder("reversible")
    tokens, targets = jnp.asarray(stacks.ids((2, 9))), jnp.asarray(stacks.ids((2, 9), seed=1))
    logits, _ = model.apply(params, tokens)
    expected = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), targets[..., None], axis=-1)[..., 0]
    make = functools.partial(model.make_vocabulary, loss_chunk_size=loss_chunk_size)
    nats, _ = model.clone(make_vocabulary=make).apply(params, tokens, targets, method="nats")
    np.testing.assert_allclose(nats, expected, rtol=1e-5, atol=1e-6)


def test_repeats_are_initialised_apart():
    _, params = stacks.make_decoder("residual")
    kernel = params["params"]["stack"]["period"]["mixing_0"]["mixer"]["query"]["kernel"]
    assert kernel.shape == (2, stacks.D_MODEL, 2, 8)
    assert not np.allclose(kernel[0], kernel[1])


@pytest.mark.slow
def test_layers_hash_by_different_rotations_and_calls_by_the_same():
    """Evaluation is repeatable, yet no two layers share their hash functions."""
    stack = stacks.make_stack("residual", pattern=("lsh",), repeats=2)
    x = np.random.default_rng(0).normal(size=(1, 12, stacks.D_MODEL)).astype(np.float32)
    params = stack.init(jax.random.key(0), x)
    first, second = (np.asarray(stack.apply(params, x)[0]) for _ in range(2))
    np.testing.assert_array_equal(first, second)

    same = jax.tree.map(lambda leaf: jnp.stack([leaf[0], leaf[0]]), params)  # two layers of equal weights …
    state = stack.apply(same, x, stack.initial_state(1, max_length=12))[1][0]
    assert not np.array_equal(state.buckets[0], state.buckets[1])  # … sort the tokens differently


@pytest.mark.slow
def test_feed_forward_and_loss_slices_change_nothing():
    config = decoder_config()
    config.update(d_model=16, d_ff=32, n_heads=2, head_dim=8, n_layers=2, dropout=0.3, residual="reversible")
    model = make_decoder(config, vocab_size=11)
    params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    config.update(ff_chunk_size=5, loss_chunk_size=3)
    sliced = make_decoder(config, vocab_size=11)
    tokens = jnp.asarray(stacks.ids((2, 13)))

    def grads(model):
        def loss(params):
            rngs = {"dropout": jax.random.key(1)}
            return model.apply(params, tokens, tokens, deterministic=False, rngs=rngs, method="nats")[0].mean()

        return jax.jit(jax.value_and_grad(loss))(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), grads(model), grads(sliced))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(pattern=("fulll",)), "model.pattern=.'fulll',. must name one or more of .*full, .*local, .*lsh"),
        (dict(n_layers=7, pattern=("full", "local")), "model.n_layers=7 must be a positive multiple of the 2"),
        (dict(residual="reversed"), "residual='reversed'; one of residual, reversible, exact"),
        (dict(residual="exact", remat=True), "remat=True"),
        (dict(positions="axial"), "model.axial.dims=.3, 4. must add up to model.d_model=512"),
        (dict(positions="rope"), "model.positions='rope'"),
        (dict(activation="tanh"), "activation='tanh'"),
        (dict(n_heads=0), "n_heads=0"),
        (dict(dropout=1.5), "dropout_rate=1.5"),
        (dict(pattern=("local",), local=dict(chunk_size=0)), "chunk_size=0"),
        (dict(pattern=("local",), local=dict(chunk_size=4, look_back=-1)), "look_back=-1"),
        (dict(pattern=("lsh",), lsh=dict(n_buckets=(7,))), "n_buckets=.7,."),
        (dict(pattern=("lsh",), lsh=dict(n_hashes=0)), "n_hashes=0"),
        (dict(pattern=("lsh",), lsh=dict(look_back="both")), "look_back='both'"),
        (dict(positions="sinusoidal", d_model=33), "d_model=33; sinusoidal positions"),
        (dict(positions="axial", axial=dict(shape=(8,), dims=(500, 12))), "axial shape=.8,. and dims=.500, 12. must"),
        (dict(loss_chunk_size=-1), "loss_chunk_size=-1"),
        (dict(norm="both"), "norm='both'; one of pre, post"),
        (dict(norm="post", residual="reversible"), "norm='post' with residual='reversible'"),
        (dict(dropout_over_time=False, ff_chunk_size=8, dropout=0.1), "chunk_size=8 with dropout_over_time=False"),
        (dict(pattern=("full", "local"), full=dict(causal=False)), "causal=False cannot stream"),
    ],
)
def test_settings_that_make_no_sense_are_named(change, message):
    config = decoder_config(("full", "local", "lsh"))
    config.update(pattern=("full",))
    config.axial.dims = (3, 4)
    for name, value in change.items():
        if isinstance(value, dict):
            config[name].update(value)
        else:
            config[name] = value
    with pytest.raises(UserError, match=message):
        make_decoder(config, vocab_size=11)
