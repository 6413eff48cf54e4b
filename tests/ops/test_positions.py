"""Positions equal their equations in float64, on any slice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.ops.positions import axial_positions, factorised_positions, rotary, sinusoidal_positions


def test_sinusoids_equal_the_equation_far_out():
    t = np.concatenate([np.arange(5), [65_535, 131_071, -3]])
    angle = t[:, None] / 10_000.0 ** (2 * np.arange(3) / 6)
    out = sinusoidal_positions(jnp.asarray(t), 6)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, np.concatenate([np.sin(angle), np.cos(angle)], axis=-1), atol=2e-5)
    with pytest.raises(ValueError, match="width=5"):
        sinusoidal_positions(jnp.arange(3), 5)


def test_sinusoids_of_a_slice_are_a_slice_of_the_sinusoids():
    positions = jnp.arange(24).reshape(2, 12)
    table = sinusoidal_positions(jnp.arange(24), 8)
    np.testing.assert_array_equal(sinusoidal_positions(positions, 8), table.reshape(2, 12, 8))


def axial_tables(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def test_axial_equals_the_explicit_grid():
    a, b, c = axial_tables((2, 3), (3, 4), (5, 1))
    grid = np.concatenate(
        [
            np.broadcast_to(np.asarray(table).reshape(shape), (2, 3, 5, table.shape[1]))
            for table, shape in ((a, (2, 1, 1, 3)), (b, (1, 3, 1, 4)), (c, (1, 1, 5, 1)))
        ],
        axis=-1,
    ).reshape(30, 8)
    np.testing.assert_array_equal(axial_positions([a, b, c], jnp.arange(30)), grid)
    some = jnp.asarray([[7, 8, 9], [29, 0, 13]])
    np.testing.assert_array_equal(axial_positions([a, b, c], some), grid[some])


def test_axial_gradient_counts_how_often_a_row_is_used():
    tables = axial_tables((4, 2), (3, 2))
    first, second = jax.grad(lambda tables: axial_positions(tables, jnp.arange(7)).sum())(tables)
    np.testing.assert_array_equal(first[:, 0], [3, 3, 1, 0])
    np.testing.assert_array_equal(second[:, 0], [3, 2, 2])


def test_axial_never_builds_the_grid_for_a_slice():
    tables = [jnp.zeros((1024, 8)), jnp.zeros((1024, 8))]
    compiled = jax.jit(axial_positions).lower(tables, jnp.arange(4)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 1024 * 1024


def test_axial_refuses_what_lies_beyond_the_grid():
    tables = axial_tables((2, 3), (3, 3))
    with pytest.raises(ValueError, match="length 7; the grid of the tables allows 6"):
        axial_positions(tables, jnp.arange(7))
    out = axial_positions(tables, jnp.asarray([5, 6, -1]))
    assert np.isfinite(out[0]).all() and np.isnan(out[1:, :3]).all()


def test_factorised_adds_the_rows_of_its_axes_up():
    rows, columns = axial_tables((4, 6), (3, 6))
    positions = jnp.asarray([[0, 1, 2, 3], [11, 4, 8, 0]])
    expected = np.asarray(rows)[positions // 3] + np.asarray(columns)[positions % 3]
    np.testing.assert_array_equal(factorised_positions([rows, columns], positions), expected)
    assert np.isnan(factorised_positions([rows, columns], jnp.asarray([12]))).all()


def test_rotary_keeps_norms_and_encodes_distances_only():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 2, 8)), jnp.float32) for _ in range(2))
    at = lambda x, t: rotary(x, jnp.full((1, 1), t))
    product = lambda i, j: np.asarray(jnp.sum(at(q, i) * at(k, j), axis=-1))
    np.testing.assert_allclose(product(7, 3), product(104, 100), rtol=1e-4, atol=1e-5)
    assert np.abs(product(7, 3) - product(7, 4)).max() > 1e-2
    np.testing.assert_allclose(jnp.linalg.norm(at(q, 1000), axis=-1), jnp.linalg.norm(q, axis=-1), rtol=1e-6)
    angle = 5 * 10_000.0 ** (-np.arange(4) / 4)
    pairs = np.asarray(q[0, 0, :, :4]) + 1j * np.asarray(q[0, 0, :, 4:])
    turned = pairs * np.exp(1j * angle)
    np.testing.assert_allclose(at(q, 5)[0, 0], np.concatenate([turned.real, turned.imag], -1), atol=1e-5)
    with pytest.raises(ValueError, match="width 7"):
        rotary(q[..., :7], jnp.zeros((1, 1), jnp.int32))
