"""Appending to the buffers that carry a stream's past."""

import jax
from jaxtyping import Array, Int, Shaped


def write(buffer: Shaped[Array, "B S *rest"], new: Shaped[Array, "B T *rest"], index: Int[Array, ""]) -> jax.Array:
    """The buffer with `new` at positions `index ... index + T - 1`, which must fit: `index + T <= S`."""
    return jax.lax.dynamic_update_slice_in_dim(buffer, new.astype(buffer.dtype), index, axis=1)
