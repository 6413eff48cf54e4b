"""Pointwise functions over slices of the length, so that their wide intermediates exist for one slice at a time."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped


def map_chunks(
    fn: Callable[[Array], Array], x: Shaped[Array, "B T *features"], *, chunk_size: int
) -> Shaped[Array, "B T *out"]:
    """Applies a function that treats positions independently to a few positions at a time; the result is exact.

        y[:, t] = fn(x[:, t])

    The backward pass keeps x alone and recomputes each chunk. `fn` may close over parameters (they get gradients) and
    over a dropout key. A chunk is not a stretch of the text and `fn` is not told which one it sees: every chunk draws
    from the same key. So draw a mask that positions share (`[1, 1, D]`, as trax does), or apply dropout outside.

    Args:
      fn: maps [B, c, ...] to [B, c, ...] for any c, each position by itself.
      x: input; any length, no divisibility needed.
      chunk_size: most positions that `fn` sees at once.

    Returns:
      fn(x).

    Raises:
      ValueError: chunk_size below 1.

    Source: Kitaev et al., Reformer (2020), section 3, "Chunking".
    """
    length = x.shape[1]
    if chunk_count(length, chunk_size) == 1:
        return fn(x)
    _, y = jax.lax.scan(jax.checkpoint(lambda _, chunk: (None, fn(chunk))), None, split_chunks(x, chunk_size))
    return join_chunks(y, length)


def chunk_count(length: int, chunk_size: int) -> int:
    """How many chunks cover a length."""
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}; 1 or more is allowed")
    return max(1, math.ceil(length / chunk_size))


def split_chunks(x: Shaped[Array, "B T *features"], chunk_size: int) -> Shaped[Array, "n B c *features"]:
    """Deals positions out to n chunks like cards: chunk i holds i, i + n, i + 2n, ….

    Every chunk then has positions from all over the length, so where the length is sharded over devices each of them
    works on its own part of every chunk. The last position is repeated to fill up, since a function need not be
    differentiable at zero.
    """
    batch, length, *features = x.shape
    n = chunk_count(length, chunk_size)
    size = math.ceil(length / n)
    if n * size > length:
        x = jnp.pad(x, [(0, 0), (0, n * size - length)] + [(0, 0)] * len(features), mode="edge")
    return jnp.moveaxis(x.reshape(batch, size, n, *features), 2, 0)


def join_chunks(chunks: Shaped[Array, "n B c *features"], length: int) -> Shaped[Array, "B {length} *features"]:
    """The inverse of `split_chunks`."""
    n, batch, size, *features = chunks.shape
    return jnp.moveaxis(chunks, 0, 2).reshape(batch, size * n, *features)[:, :length]
