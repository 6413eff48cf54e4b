"""Appending to the buffers that carry a stream's past."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped


def write(buffer: Shaped[Array, "B S *rest"], new: Shaped[Array, "B T *rest"], index: Int[Array, ""]) -> jax.Array:
    """The buffer with `new` at positions `index ... index + T - 1`, which must fit: `index + T <= S`."""
    return jax.lax.dynamic_update_slice_in_dim(buffer, new.astype(buffer.dtype), index, axis=1)


def nan_past_the_end(y: Float[Array, "B T *rest"], index: Int[Array, ""], length: int) -> jax.Array:
    """`y`, or NaN once a stream has seen more tokens (`index`) than its buffers hold (`length`): `write` has then
    overwritten the past, which must not go unnoticed."""
    return jnp.where(index <= length, y, jnp.nan)
