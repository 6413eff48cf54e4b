import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.accounting.flops import count_flops
from effjax.errors import UserError
from effjax.models.generation import generate, sample
from tests.laws import stacks


@pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=[pytest.mark.slow] * ("reversible" != mode)) for mode in stacks.MODES]
)
def test_greedy_generation_equals_recomputing_everything(mode):
    model, params = stacks.make_decoder(mode)
    params = jax.tree.map(lambda leaf: 3 * leaf, params)  # decided choices, so that rounding cannot tip them
    prompt = stacks.ids((2, 5))
    new = generate(model, params["params"], prompt, length=6, key=jax.random.key(0), temperature=0.0)
    tokens = np.concatenate([prompt, new], axis=1)
    logits, _ = jax.jit(model.apply)(params, tokens[:, :-1])
    np.testing.assert_array_equal(new, np.argmax(logits[:, 4:], axis=-1))


def test_a_long_prefix_is_not_recomputed():
    """Twice as many new tokens cost twice as many decoding steps, whatever the prompt."""
    model, params = stacks.make_decoder("reversible", pattern=("local",))

    def cost(prompt, length):
        run = lambda prompt: generate(model, params["params"], prompt, length=length, key=jax.random.key(0))
        return count_flops(run, jnp.zeros((1, prompt), jnp.int32))

    per_token = cost(8, 3) - cost(8, 2)
    assert cost(40, 3) - cost(40, 2) == pytest.approx(per_token, rel=1e-6)


def test_sampling_follows_temperature_and_top_k():
    logits = jnp.log(jnp.array([[0.1, 0.2, 0.3, 0.4]]))
    draws = lambda temperature, top_k: (
        np.bincount(
            jax.vmap(lambda key: sample(key, logits, temperature, top_k)[0])(
                jax.random.split(jax.random.key(0), 20_000)
            ),
            minlength=4,
        )
        / 20_000
    )
    np.testing.assert_allclose(draws(1.0, 0), [0.1, 0.2, 0.3, 0.4], atol=0.015)
    np.testing.assert_allclose(draws(0.5, 0), np.array([1, 4, 9, 16]) / 30, atol=0.015)
    np.testing.assert_allclose(draws(1.0, 2), [0, 0, 3 / 7, 4 / 7], atol=0.015)
    np.testing.assert_array_equal(draws(0.0, 0), [0, 0, 0, 1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(prompt=0), "prompt is empty"),
        (dict(prompt=60), "60 tokens and 5 new ones exceed the 64 positions"),
        (dict(length=0), "length=0"),
        (dict(temperature=-1.0), "temperature=-1.0"),
        (dict(top_k=12), "top_k=12; 0 .all. to 11"),
    ],
)
def test_mistakes_are_named(settings, message):
    model, params = stacks.make_decoder("residual")
    settings = dict(prompt=3, length=5) | settings
    prompt = jnp.zeros((1, settings.pop("prompt")), jnp.int32)
    with pytest.raises(UserError, match=message):
        generate(model, params["params"], prompt, key=jax.random.key(0), **settings)
