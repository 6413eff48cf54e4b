"""What random features promise: unbiased, of known variance, better where rows are orthogonal and point anywhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.ops.favor_features import favor_features, favor_projection

X, Y = jnp.array([0.5, -0.3, 0.2, 0.1]), jnp.array([0.3, 0.4, -0.1, 0.2])
TRUE = float(jnp.exp(X @ Y))


@functools.partial(jax.jit, static_argnames="kernel")
def estimate(projection, kernel="softmax", x=X, y=Y):
    """phi(x) . phi(y) for every projection [..., M, H]."""

    def one(rows):
        (u, c), (w, e) = (favor_features(z, projection=rows, kernel=kernel) for z in (x, y))
        return u @ w * jnp.exp(c + e)

    return jax.vmap(one)(projection.reshape(-1, *projection.shape[-2:]))


def draws(count, n_features, width=4, seed=0, **options):
    return favor_projection(jax.random.key(seed), n_features, width, n_heads=count, **options)


@pytest.mark.parametrize("kernel", ["softmax", "hyperbolic", "trigonometric"])
def test_mean_and_variance_of_independent_features(kernel):
    """Invariant 1: unbiased; the variance of m features is 1/m of the closed form."""
    m = 4
    found = np.asarray(estimate(draws(100_000, m, orthogonal=False), kernel), np.float64)
    assert abs(found.mean() - TRUE) < 4 * found.std() / np.sqrt(found.size)
    together, apart = float((X + Y) @ (X + Y)), float((X - Y) @ (X - Y))
    variance = {
        "softmax": TRUE**2 * np.expm1(together) / m,
        "hyperbolic": TRUE**2 * (np.expm1(together) - (1 - np.exp(-together))) / (2 * m),
        "trigonometric": np.exp(together) / TRUE**2 * (1 - np.exp(-apart)) ** 2 / (2 * m),
    }
    assert found.var() == pytest.approx(variance[kernel], rel=0.05)


def test_error_falls_as_the_root_of_the_number_of_features():
    """Invariant 2."""
    sizes = 2 ** np.array([4, 8, 12])
    errors = [np.sqrt(np.mean((estimate(draws(200, int(m), orthogonal=False)) - TRUE) ** 2)) for m in sizes]
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert abs(slope + 0.5) < 0.1


def test_orthogonal_rows():
    """Invariant 3: orthogonal within a block, Gaussian lengths, and a smaller error than independent rows."""
    w = draws(2, 10, width=8)
    for rows in np.asarray(w, np.float64):
        for block in (rows[:8], rows[8:]):
            gram = block @ block.T
            assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-5
    constant = favor_projection(jax.random.key(0), 8, 8, scaling="constant")
    np.testing.assert_allclose(constant @ constant.T, 8 * np.eye(8), atol=1e-4)
    lengths = np.linalg.norm(draws(20_000, 8, width=8), axis=-1) ** 2
    assert abs(lengths.mean() - 8) < 0.1 and abs(lengths.var() - 16) < 1  # chi-square of 8 degrees

    error = lambda **options: np.mean((np.asarray(estimate(draws(5000, 4, **options))) - TRUE) ** 2)
    assert error() < error(orthogonal=False)


def test_rows_point_anywhere():
    """E exp(w . z) / exp(|z|^2 / 2) is 1, and 0.81 for rows that keep the signs of the factorisation."""
    z = jnp.full(8, 0.35)
    ratio = lambda rows: float(jnp.mean(jnp.exp(rows @ z)) / jnp.exp(z @ z / 2))
    w = draws(20_000, 8, width=8)
    assert ratio(w) == pytest.approx(1, abs=0.01)

    gaussian = np.random.default_rng(0).normal(size=(20_000, 8, 8)).astype(np.float32)
    raw = np.swapaxes(np.linalg.qr(gaussian)[0], -1, -2) * np.linalg.norm(w, axis=-1)[..., None]
    assert ratio(jnp.asarray(raw)) == pytest.approx(0.81, abs=0.02)


def test_features_of_large_vectors_are_bounded():
    x = 1e3 * jax.random.normal(jax.random.key(1), (5, 8))
    for kernel in ("softmax", "hyperbolic", "trigonometric"):
        u, c = favor_features(x, projection=draws(2, 10, width=8)[0], kernel=kernel)
        assert np.abs(u).max() <= 1 and np.isfinite(c).all()


@pytest.mark.parametrize("options", [dict(n_features=0), dict(head_dim=0), dict(scaling="sqrt")])
def test_mistakes_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        favor_projection(jax.random.key(0), **{"n_features": 8, "head_dim": 4, **options})
