"""Positions of any slice of a sequence: sinusoids, learned axial and factorised tables, rotations, linear biases."""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int


def sinusoidal_positions(positions: Int[Array, "*batch T"], width: int) -> Float[Array, "*batch T {width}"]:
    """Fixed sinusoids of geometrically spaced wavelengths, sines first, then cosines.

        PE[t] = [sin(t w_0), sin(t w_1), …, cos(t w_0), cos(t w_1), …],   w_i = 10000^(-2i / width)

    Args:
      positions: positions t, any slice.
      width: number of features, even.

    Returns:
      float32 embeddings, within 2e-5 of the equation for |t| up to 2^17.

    Raises:
      ValueError: width is odd or below 2.

    Source: Vaswani et al., Attention Is All You Need (2017), section 3.5, in the order of tensor2tensor.
    """
    if width < 2 or width % 2:
        raise ValueError(f"width={width}; an even number of at least 2 is allowed")
    turns = 10_000.0 ** (-2 * np.arange(width // 2) / width) / (2 * np.pi)
    # At position 65,536 a plain float32 angle is 4e-3 off. With 7 leading bits of the frequency its product with the
    # position is exact, whole turns can be dropped from it, and only the small remainder is rounded.
    mantissa, exponent = np.frexp(turns)
    coarse = np.ldexp(np.round(mantissa * 2**7) / 2**7, exponent)
    t = positions[..., None].astype(jnp.float32)
    angle = 2 * jnp.pi * ((t * coarse.astype(np.float32)) % 1 + t * (turns - coarse).astype(np.float32))
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def axial_positions(
    tables: Sequence[Float[Array, "_n _d"]], positions: Int[Array, "*batch T"]
) -> Float[Array, "*batch T D"]:
    """Learned embeddings of the coordinates of a position in a row-major grid, concatenated.

        E[i * n2 + j] = [E1[i] ; E2[j]]        (two axes; any number works alike)

    Only the rows asked for are gathered, never the whole grid.

    Args:
      tables: one table [n_k, d_k] per axis, the slowest first.
      positions: positions in [0, n_1 * n_2 * …), any slice; a position outside gives NaN.

    Returns:
      embeddings of width D = d_1 + d_2 + ….

    Raises:
      ValueError: T exceeds the size of the grid.

    Source: Kitaev et al., Reformer (2020), implementation in trax; grid and widths as in its enwik8 configuration.
    """
    return jnp.concatenate(_rows(tables, positions), axis=-1)


def factorised_positions(
    tables: Sequence[Float[Array, "_n D"]], positions: Int[Array, "*batch T"]
) -> Float[Array, "*batch T D"]:
    """Learned embeddings of the coordinates of a position in a row-major grid, added up.

        E[i * n2 + j] = E1[i] + E2[j]        (two axes; any number works alike)

    Args:
      tables: one table [n_k, D] per axis, the slowest first.
      positions: positions in [0, n_1 * n_2 * …), any slice; a position outside gives NaN.

    Returns:
      embeddings of width D.

    Raises:
      ValueError: T exceeds the size of the grid.

    Source: Child et al. 2019 (arXiv 1904.10509), section 5.3.
    """
    return sum(_rows(tables, positions))


def _rows(tables, positions):
    """Of every table, the rows that the positions' coordinates along its axis name."""
    sizes = [table.shape[0] for table in tables]
    if positions.shape[-1] > math.prod(sizes):
        raise ValueError(
            f"positions has length {positions.shape[-1]}; the grid of the tables allows {math.prod(sizes)}"
        )
    parts = []
    for axis, table in enumerate(tables):
        index = positions // math.prod(sizes[axis + 1 :])
        if axis > 0:  # the first axis keeps what lies beyond the grid, so that it is seen
            index = index % sizes[axis]
        parts.append(table.at[index].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False))
    return parts


def rotary(x: Float[Array, "B T N H"], positions: Int[Array, "B T"]) -> Float[Array, "B T N H"]:
    """Rotates queries or keys by their position, so that products depend on the distance only.

    With `w_i = 10000^(-2 i / H)`, the pair `(x_i, x_{i + H/2})` turns by the angle `t w_i` (half-split layout;
    checkpoints of the interleaved layout need their columns permuted).

    Args:
      x: queries or keys, H even.
      positions: position t of each.

    Returns:
      The rotated vectors, of the same norm, in the dtype of x.

    Raises:
      ValueError: H is odd.

    Source: Su et al. 2021 (2104.09864), section 3.2.
    """
    half, odd = divmod(x.shape[-1], 2)
    if odd:
        raise ValueError(f"x has heads of width {x.shape[-1]}; an even width is allowed")
    frequencies = jnp.exp(jnp.arange(half, dtype=jnp.float32) * (-math.log(10_000.0) / half))
    angles = (positions[..., None].astype(jnp.float32) * frequencies)[:, :, None]
    # Made once: XLA would fuse them into the products, and compute them again for every head.
    cos, sin = lax.optimization_barrier((jnp.cos(angles), jnp.sin(angles)))
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1).astype(x.dtype)


def alibi(n_heads: int) -> Callable[..., Float[Array, ""]]:
    """A bias that falls linearly with the distance, for `effjax.ops.sparse.sparse_attention`.

        bias(i, j, n) = -2^(-8 (n + 1) / N) |i - j|

    Args:
      n_heads: N.

    Returns:
      The function of query position, key position and head.

    Source: Press, Smith & Lewis 2021 (2108.12409), section 3.
    """

    def bias(query, key, head):
        return -jnp.exp2(-8.0 * (head + 1) / n_heads) * jnp.abs(query - key)

    return bias
