"""Absolute position encodings, computed for the positions that are asked for and no others."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def sinusoidal_positions(positions: Int[Array, "*shape"], width: int) -> Float[Array, "*shape D"]:
    """Encodes position t as `[sin(t w_0), …, sin(t w_m), cos(t w_0), …, cos(t w_m)]`, `w_i = 10000^(-2 i / D)`.

    Args:
      positions: any integers; there is no greatest length.
      width: D, even.

    Returns:
      float32, sines in the first half of the width and cosines in the second (as in tensor2tensor).

    Raises:
      ValueError: width is odd or below 2.

    Source: Vaswani et al. 2017 (1706.03762), section 3.5.
    """
    if width < 2 or width % 2:
        raise ValueError(f"width={width}; an even number of at least 2 is allowed")
    frequencies = jnp.exp(jnp.arange(width // 2, dtype=jnp.float32) * (-2 * math.log(10_000.0) / width))
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def axial_positions(
    tables: Sequence[Float[Array, "_ _"]], positions: Int[Array, "*shape"]
) -> Float[Array, "*shape D"]:
    """Encodes position t by its coordinates on a grid: `t = i n_2 + j -> [E1_i ; E2_j]`, row-major over any axes.

    Args:
      tables: one `[n_i, d_i]` per axis; the widths add up to D.
      positions: integers in [0, prod n_i); one outside gives NaN, never another position's encoding.

    Returns:
      The encodings; only the rows asked for are gathered.

    Raises:
      ValueError: the last axis of positions is longer than the grid.

    Source: Kitaev et al. 2020 (2001.04451), appendix; `AxialPositionalEncoding` in trax.
    """
    places = math.prod(table.shape[0] for table in tables)
    if positions.ndim and positions.shape[-1] > places:
        raise ValueError(f"positions has length {positions.shape[-1]}; the grid of the tables allows {places}")
    parts, rest = [], positions
    for table in reversed(tables[1:]):
        parts.append(jnp.take(table, rest % table.shape[0], axis=0))
        rest = rest // table.shape[0]
    # The first coordinate is the only one that can leave its table, and does so just when the position leaves the grid.
    parts.append(jnp.take(tables[0], rest, axis=0, mode="fill", fill_value=jnp.nan))
    return jnp.concatenate(parts[::-1], axis=-1)
