"""Blocks of rows and their products, as the attentions for the CPU cut and multiply them.

XLA's CPU products are fast as A B and A B^T. Where the left operand is contracted over its rows, as in A^T B, they run
at half of that rate and less: these forms keep what would need such a product transposed.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Shaped


def product(a: Float[Array, "M K"], b: Float[Array, "K N"], accumulator: Any) -> Float[Array, "M N"]:
    """a b, summed and returned in the dtype `accumulator`."""
    return jnp.dot(a, b, preferred_element_type=accumulator)


def rows(x: Shaped[Array, "L ..."], index: int | Int[Array, ""], size: int, count: int = 1) -> Shaped[Array, "..."]:
    """The rows of `count` blocks of x from block `index` on, of `size` rows each."""
    return lax.dynamic_slice_in_dim(x, index * size, count * size)


def transposed(x: Float[Array, "M K"]) -> Float[Array, "K M"]:
    """x^T in memory of its own: without the barrier XLA would fold it into the product that reads it."""
    return lax.optimization_barrier(x.T)


def add_columns(
    tiles: Float[Array, "count H size"], index: int | Int[Array, ""], columns: Float[Array, "H sizes"]
) -> Float[Array, "count H size"]:
    """Adds to the tiles from `index` on. A tile is a block of rows [size, H], transposed."""
    size = tiles.shape[2]
    for i in range(columns.shape[1] // size):
        tile = lax.dynamic_index_in_dim(tiles, index + i, keepdims=False) + columns[:, i * size : (i + 1) * size]
        tiles = lax.dynamic_update_index_in_dim(tiles, tile, index + i, 0)
    return tiles


def untile(tiles: Float[Array, "count H size"]) -> Float[Array, "rows H"]:
    """The rows of all tiles.

    Tiles fit into the nearest cache and transpose there, in an eighth of the time of the whole as [H, rows].
    """
    return tiles.swapaxes(1, 2).reshape(-1, tiles.shape[1])
