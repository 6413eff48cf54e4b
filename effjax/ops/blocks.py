"""Blocks of rows and their products, as the attentions for the CPU cut and multiply them.

XLA's CPU products are fast as A B and A B^T. Where the left operand is contracted over its rows, as in A^T B, they run
slower (0.7 of the rate already at 64 x 64 x 128): these forms keep what would need such a product transposed.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

TILE = 128  # columns


def product(a: Float[Array, "M K"], b: Float[Array, "K N"], accumulator: Any) -> Float[Array, "M N"]:
    """a b, summed and returned in the dtype `accumulator`."""
    return jnp.dot(a, b, preferred_element_type=accumulator)


def rows(x: Shaped[Array, "L ..."], index: int | Int[Array, ""], size: int, count: int = 1) -> Shaped[Array, "..."]:
    """The rows of `count` blocks of x from block `index` on, of `size` rows each."""
    return lax.dynamic_slice_in_dim(x, index * size, count * size)


def transposed(x: Float[Array, "M K"], accumulator: Any) -> Float[Array, "K M"]:
    """x^T in the dtype `accumulator` and in memory of its own.

    Without the barrier XLA would fold the transposition into the product that reads it; and with it, of bfloat16, XLA
    would be left with a product that its CPU code does not have.
    """
    return lax.optimization_barrier(x.T.astype(accumulator))


def add_columns(
    x: Float[Array, "H L"], start: int | Int[Array, ""], columns: Float[Array, "H C"]
) -> Float[Array, "H L"]:
    """x with `columns` added to those from `start` on: how gradients of rows are summed up, transposed."""
    columns = columns + lax.dynamic_slice_in_dim(x, start, columns.shape[1], 1)
    return lax.dynamic_update_slice_in_dim(x, columns, start, 1)


def rows_of(x: Float[Array, "H L"]) -> Float[Array, "L H"]:
    """x^T, cut into tiles first, which transpose in the nearest cache: a third of the time of the whole at once."""
    width, length = x.shape
    if length <= TILE:
        return x.T
    x = jnp.pad(x, ((0, 0), (0, -length % TILE)))
    tiles = lax.map(lambda i: lax.dynamic_slice_in_dim(x, i * TILE, TILE, 1), jnp.arange(x.shape[1] // TILE))
    return tiles.swapaxes(1, 2).reshape(-1, width)[:length]
