"""Position-wise functions over one slice of the length at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def map_chunks(
    fn: Callable[[Float[Array, "B C D"]], Float[Array, "B C E"]], x: Float[Array, "B T D"], *, chunk_size: int
) -> Float[Array, "B T E"]:
    """`fn(x)`, computed slice by slice, so that what `fn` makes inside is in memory for one slice only.

    Exact where `fn` treats positions alike and apart. The backward pass recomputes each slice. Randomness that `fn`
    closes over is the same in every slice: share dropout masks over time.

    Args:
      fn: a position-wise function; it may close over parameters, which are differentiated.
      x: any length.
      chunk_size: positions a slice, the last one padded with zeros.

    Raises:
      ValueError: chunk_size is below 1.

    Source: Kitaev et al. 2020 (2001.04451), section 3, chunking.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}; 1 or more is allowed")
    batch, length, width = x.shape
    if length <= chunk_size:
        return fn(x)
    chunks = -(-length // chunk_size)
    x = jnp.pad(x, ((0, 0), (0, chunks * chunk_size - length), (0, 0)))
    x = jnp.moveaxis(x.reshape(batch, chunks, chunk_size, width), 1, 0)
    y = jnp.moveaxis(jax.lax.map(jax.checkpoint(fn), x), 0, 1)
    return y.reshape(batch, chunks * chunk_size, y.shape[-1])[:, :length]
