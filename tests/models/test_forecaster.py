"""The forecaster as laws see it: its stream is its parallel pass, the future and padding change nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.errors import UserError
from effjax.models.forecaster import forecaster_config, make_forecaster, sample_trajectories
from effjax.ops.distributions import Gaussian, loc_and_scale
from tests.laws.measure import relative_rms

LENGTH, BATCH = 20, 3
MIXERS = {
    "log_sparse": dict(local=3, qk_kernel=3),
    "full": {},
    "transformer_xl": dict(memory_length=LENGTH),
}
QUICK = ("log_sparse",)


@functools.cache
def small(name="log_sparse", **settings):
    config = forecaster_config((name,))
    config.update(
        d_model=16, d_ff=32, n_heads=2, head_dim=8, n_layers=2, n_series=4, series_dim=3, positions="axial", norm="post"
    )
    config.axial.update(shape=(32,), dims=(16,))
    config[name].update({key: value for key, value in MIXERS[name].items() if key in config[name]})
    config.update(settings)
    model = make_forecaster(config)
    values, covariates, series = inputs()
    return model, jax.jit(model.init)(jax.random.key(0), values, covariates, series)["params"]


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    values = jnp.float32(rng.normal(size=(BATCH, LENGTH)))
    return values, jnp.float32(rng.normal(size=(BATCH, LENGTH, 2))), jnp.array([0, 1, 4])


@functools.cache
def compiled(model, method="__call__"):
    return jax.jit(
        lambda params, *inputs, **sequence: model.apply({"params": params}, *inputs, method=method, **sequence)
    )


def late():
    """Padding of series that begin late."""
    padding = np.ones((BATCH, LENGTH), bool)
    padding[1, :6] = padding[2, :1] = False
    return padding


every_mixer = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in MIXERS]
)


@every_mixer
def test_pieces_of_a_stream_equal_the_parallel_pass(name):
    model, params = small(name)
    before, covariates, series = inputs()
    padding = late()
    whole, _ = compiled(model)(params, before, covariates, series, padding_mask=padding)
    state, pieces, start = model.initial_state(BATCH, max_length=LENGTH), [], 0
    for length in (12, *[1] * 8):
        at = slice(start, start + length)
        numbers, state = compiled(model)(
            params, before[:, at], covariates[:, at], series, state, padding_mask=padding[:, at]
        )
        pieces.append(numbers)
        start += length
    assert relative_rms(np.concatenate(pieces, 1)[padding], np.asarray(whole)[padding]) <= 1e-5
    assert int(state.index) == LENGTH


@every_mixer
def test_the_future_changes_nothing_and_padding_neither(name):
    model, params = small(name)
    values, covariates, series = inputs()
    nats, padding = compiled(model, "nats"), late()
    plain = nats(params, values, covariates, series, padding_mask=padding)
    assert (np.asarray(plain)[~padding] == 0).all()
    later = values.at[:, 12:].set(9.0), covariates.at[:, 12:].set(9.0)
    changed = nats(params, *later, series, padding_mask=padding)
    np.testing.assert_array_equal(changed[:, :12], plain[:, :12])
    torn = jnp.where(padding, values, jnp.nan), jnp.where(padding[..., None], covariates, jnp.nan)
    np.testing.assert_array_equal(nats(params, *torn, series, padding_mask=padding), plain)


def test_a_value_is_read_only_after_it_has_been_forecast():
    model, params = small()
    values, covariates, series = inputs()
    padding = np.ones((BATCH, LENGTH), bool)
    nats = compiled(model, "nats")(params, values, covariates, series, padding_mask=padding)
    before = jnp.pad(values, ((0, 0), (1, 0)))[:, :-1]
    numbers, _ = compiled(model)(params, before, covariates, series, padding_mask=padding)
    np.testing.assert_allclose(nats, Gaussian.nats(numbers, values), rtol=1e-5, atol=1e-6)


def test_identity_and_covariates_are_heard():
    model, params = small()
    before, covariates, series = inputs()
    padding = np.ones((BATCH, LENGTH), bool)
    numbers = lambda *inputs: np.asarray(compiled(model)(params, *inputs, padding_mask=padding)[0])
    plain = numbers(before, covariates, series)
    changed = np.abs(plain - numbers(before, covariates, jnp.array([0, 2, 4]))).max((1, 2))
    assert changed[1] > 1e-4 and changed[0] == changed[2] == 0
    changed = np.abs(plain - numbers(before, covariates.at[0, 5, 1].add(1.0), series))[0].max(-1)
    assert (changed[:5] == 0).all() and changed[5] > 1e-4


def test_trajectories_are_fed_with_their_own_draws():
    """The noise of every draw, worked out from parallel passes over whole trajectories, is that of its key."""
    model, params = small()
    values, covariates, series = inputs()
    padding, known, n_samples = late(), slice(None, 12), 2
    keys = jax.random.split(jax.random.key(7), BATCH)
    draws = jax.jit(functools.partial(sample_trajectories, model, n_samples=n_samples))(
        params, values[:, known], covariates, series, padding_mask=padding[:, known], keys=keys
    )
    assert draws.shape == (BATCH, n_samples, 8)
    for sample in range(n_samples):
        trajectory = np.concatenate([np.where(padding[:, known], values[:, known], 0), draws[:, sample]], 1)
        before = np.pad(trajectory, ((0, 0), (1, 0)))[:, :-1]
        numbers, _ = compiled(model)(params, jnp.asarray(before), covariates, series, padding_mask=padding)
        loc, scale = loc_and_scale(numbers[:, 12:])
        own = [jax.random.split(key, n_samples)[sample] for key in keys]
        noise = [[jax.random.normal(jax.random.fold_in(key, t)) for t in range(8)] for key in own]
        np.testing.assert_allclose((draws[:, sample] - loc) / scale, np.array(noise), rtol=1e-3, atol=1e-3)


def test_settings_that_make_no_sense_are_named():
    for setting, message in ((dict(distribution="poisson"), "poisson"), (dict(series_dim=-1), "series_dim=-1")):
        config = forecaster_config()
        config.update(setting)
        with pytest.raises(UserError, match=message):
            make_forecaster(config)
    config = forecaster_config(("linformer",))
    with pytest.raises(UserError):
        make_forecaster(config)
