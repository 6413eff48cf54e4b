"""Densities, draws, scales and quantile losses of forecasts, against SciPy, GluonTS and their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from gluonts.ev import stats
from jax.test_util import check_grads

from effjax.ops.distributions import DISTRIBUTIONS, LEAST_SCALE, Gaussian, StudentT
from effjax.ops.quantile_loss import quantile_loss
from effjax.ops.series_scale import SCALINGS, series_scale

RNG = np.random.default_rng(0)


def softplus(x):
    return np.log1p(np.exp(x))


def scipys(name, numbers):
    """SciPy's distribution of the same numbers."""
    loc, scale = numbers[..., 0], softplus(numbers[..., 1]) + LEAST_SCALE
    if name == "gaussian":
        return scipy.stats.norm(loc, scale)
    return scipy.stats.t(2 + softplus(numbers[..., 2]), loc, scale)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_density_is_scipys_and_its_gradient_that_of_differences(name):
    own = DISTRIBUTIONS[name]
    numbers, values = RNG.normal(size=(50, own.n_numbers)), 3 * RNG.normal(size=50)
    expected = -scipys(name, numbers).logpdf(values)
    np.testing.assert_allclose(own.nats(jnp.float32(numbers), jnp.float32(values)), expected, rtol=2e-5, atol=1e-5)
    with jax.enable_x64(True):
        nats = jax.jit(lambda numbers: own.nats(numbers, jnp.asarray(values[:6])))
        check_grads(nats, (jnp.asarray(numbers[:6]),), order=1, modes=("rev",), rtol=1e-6)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_quantiles_of_draws_are_those_of_the_distribution(name):
    numbers = np.array([3.0, 0.4, -1.0])[: DISTRIBUTIONS[name].n_numbers]
    many = jnp.broadcast_to(jnp.float32(numbers), (100_000, len(numbers)))
    draws = jax.jit(DISTRIBUTIONS[name].sample)(jax.random.key(0), many)
    for rho in (0.1, 0.5, 0.9):
        assert np.quantile(draws, rho) == pytest.approx(scipys(name, numbers).ppf(rho), abs=0.03)
    if name == "gaussian":  # mu + sigma times the quantile of the standard normal
        assert scipys(name, numbers).ppf(0.9) == pytest.approx(3 + (softplus(0.4) + LEAST_SCALE) * 1.2816, abs=1e-4)


def test_a_series_that_stands_still_has_a_finite_density():
    numbers = jnp.array([[0.0, -200.0, 0.0]])
    for own in (Gaussian, StudentT):
        loss, gradient = jax.value_and_grad(lambda n, own=own: own.nats(n, jnp.zeros(1)).sum())(numbers)
        assert np.isfinite(loss) and np.isfinite(gradient).all()


def risk(values, forecasts, rho):
    losses = quantile_loss(jnp.asarray(values), jnp.asarray(forecasts), rho=rho)
    return float(2 * losses.sum() / np.abs(values).sum())


VALUES, FORECASTS = (np.float32(RNG.gamma(2.0, 30.0, size=(5, 24))) for _ in range(2))
FORECASTS[0, :3] = VALUES[0, :3]  # some exact ones


@pytest.mark.parametrize("rho", [0.5, 0.9])
def test_risk_is_that_of_gluonts(rho):
    data = {"label": VALUES, str(rho): FORECASTS}
    theirs = stats.quantile_loss(data, q=rho).sum() / stats.absolute_label(data).sum()
    assert risk(VALUES, FORECASTS, rho) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("rho", [0.5, 0.9])
def test_risk_is_that_of_its_definition(rho):
    total = 0.0
    for y, q in zip(VALUES.ravel().tolist(), FORECASTS.ravel().tolist()):
        total += 2 * (y - q) * (rho - 1) if y <= q else 2 * (y - q) * rho
    assert risk(VALUES, FORECASTS, rho) == pytest.approx(total / np.abs(VALUES).sum(), rel=1e-6)
    assert risk(VALUES, VALUES, rho) == 0.0
    assert risk(7 * VALUES, 7 * FORECASTS, rho) == pytest.approx(risk(VALUES, FORECASTS, rho), rel=1e-5)


def test_risk_at_the_median_is_the_normalised_deviation_and_the_quantile_minimises_it():
    deviation = np.abs(VALUES - FORECASTS).sum() / np.abs(VALUES).sum()
    assert risk(VALUES, FORECASTS, 0.5) == pytest.approx(deviation, rel=1e-6)
    constants = np.linspace(0, 200, 401)
    risks = [risk(VALUES, np.full_like(VALUES, c), 0.9) for c in constants]
    assert constants[np.argmin(risks)] == pytest.approx(np.quantile(VALUES, 0.9), abs=2.0)


def test_scales_by_hand_and_what_is_masked_does_not_count():
    values = jnp.array([[0.0, 2.0, 4.0, jnp.nan], [0.0, 0.0, 0.0, 0.0], [-3.0, 5.0, 5.0, 1.0]])
    mask = jnp.array([[True, True, True, False], [True] * 4, [True] * 4])
    scales = {name: series_scale(values, mask, scaling=name) for name in SCALINGS}
    expected = {
        "mean_plus_one": ([0, 0, 0], [4, 1, 4.5]),
        "mean_abs": ([0, 0, 0], [2, 1, 3.5]),
        "standardise": ([2, 0, 2], [np.sqrt(8 / 3), 1, np.sqrt(11)]),
        "none": ([0, 0, 0], [1, 1, 1]),
    }
    for name, (loc, scale) in expected.items():
        np.testing.assert_allclose(scales[name][0][:, 0], loc, rtol=1e-6)
        np.testing.assert_allclose(scales[name][1][:, 0], scale, rtol=1e-6)
    flat = series_scale(jnp.full((1, 4), 300.0), mask[1:2], scaling="standardise")
    np.testing.assert_allclose(np.concatenate(flat, 1), [[300, 3]], rtol=1e-5)
    with pytest.raises(ValueError, match="scaling='max'"):
        series_scale(values, mask, scaling="max")
