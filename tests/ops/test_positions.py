import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.ops.positions import axial_positions, sinusoidal_positions


def test_axial_table_is_the_explicit_concatenation():
    tables = [np.random.default_rng(i).normal(size=shape).astype(np.float32) for i, shape in enumerate([(3, 2), (4, 5)])]
    explicit = np.array([np.concatenate([tables[0][i], tables[1][j]]) for i in range(3) for j in range(4)])
    tables = [jnp.asarray(table) for table in tables]
    np.testing.assert_array_equal(axial_positions(tables, jnp.arange(12)), explicit)
    np.testing.assert_array_equal(axial_positions(tables, jnp.array([[7, 2]])), explicit[[[7, 2]]])


def test_three_axes_and_gradients():
    shapes = [(2, 1), (3, 2), (4, 3)]
    tables = [jnp.asarray(np.random.default_rng(i).normal(size=shape)) for i, shape in enumerate(shapes)]
    i, j, k = np.unravel_index(17, (2, 3, 4))
    np.testing.assert_array_equal(
        axial_positions(tables, jnp.array([17]))[0], np.concatenate([tables[0][i], tables[1][j], tables[2][k]])
    )
    counts = jax.grad(lambda tables: axial_positions(tables, jnp.arange(24)).sum())(tables)
    for count, expected in zip(counts, (12.0, 8.0, 6.0)):  # how many places share a row of each table
        np.testing.assert_array_equal(count, np.full(count.shape, expected))


def test_positions_outside_the_grid():
    tables = [jnp.ones((2, 3)), jnp.ones((4, 3))]
    assert np.isnan(axial_positions(tables, jnp.array([7, 8]))[1]).any()
    assert np.isfinite(axial_positions(tables, jnp.array([7, 8]))[0]).all()
    with pytest.raises(ValueError, match="length 9; the grid of the tables allows 8"):
        axial_positions(tables, jnp.arange(9))


def test_sinusoids():
    encoded = np.asarray(sinusoidal_positions(jnp.array([0, 3, 5000]), 6), np.float64)
    frequency = 10_000.0 ** (-np.arange(3) / 3)
    angles = np.array([0, 3, 5000])[:, None] * frequency
    np.testing.assert_allclose(encoded, np.concatenate([np.sin(angles), np.cos(angles)], -1), atol=1e-3)
    np.testing.assert_allclose(encoded[:2], np.concatenate([np.sin(angles), np.cos(angles)], -1)[:2], atol=1e-6)
    with pytest.raises(ValueError, match="width=5"):
        sinusoidal_positions(jnp.arange(3), 5)
