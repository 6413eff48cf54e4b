"""Blocks, columns and their transposition: the same numbers as the plain forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.ops.blocks import TILE, add_columns, product, rows, rows_of, transposed


def draw(*shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)


@pytest.mark.parametrize("length", [1, TILE, TILE + 1, 3 * TILE])
def test_rows_of_is_the_transpose(length):
    x = draw(6, length)
    assert np.array_equal(jax.jit(rows_of)(x), x.T)
    assert np.array_equal(jax.vmap(rows_of)(x[None])[0], x.T)


def test_blocks_of_rows():
    x = draw(12, 2)
    assert np.array_equal(rows(x, 1, 3), x[3:6])
    assert np.array_equal(rows(x, 1, 3, 2), x[3:9])


def test_columns_add_up():
    x, more = draw(4, 10), draw(4, 3)
    assert np.array_equal(add_columns(x, 5, more), x.at[:, 5:8].add(more))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_product_with_a_transposed_operand(dtype):
    a, b = draw(5, 4, dtype=dtype), draw(5, 3, dtype=dtype)
    found = jax.jit(lambda a, b: product(transposed(a, jnp.float32), b, jnp.float32))(a, b)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.asarray(a, np.float64).T @ np.asarray(b, np.float64), rtol=1e-5, atol=1e-6)
