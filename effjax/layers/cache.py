"""The buffers that carry a stream's past, and appending to them."""

from typing import Any

import flax.struct
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


@flax.struct.dataclass
class KeyValueCache:
    """All past keys and values: O(n), as a family needs whose tokens to come may see any of them."""

    key: jax.Array  # [B, max_length, K, H]
    value: jax.Array
    segment_ids: jax.Array  # [B, max_length], -1 where empty or padded
    index: jax.Array  # tokens seen so far

    @classmethod
    def empty(cls, shape: tuple[int, int, int, int], dtype: Any, **others) -> "KeyValueCache":
        """The cache before the first token, for keys of `shape`; `others` are the fields that a subclass adds."""
        heads, nothing = jnp.zeros(shape, dtype), jnp.full(shape[:2], -1, jnp.int32)
        return cls(key=heads, value=heads, segment_ids=nothing, index=jnp.zeros((), jnp.int32), **others)

    def append(self, key: jax.Array, value: jax.Array, segment_ids: jax.Array, **others) -> "KeyValueCache":
        """The cache after the next tokens."""
        return self.replace(
            key=write(self.key, key, self.index),
            value=write(self.value, value, self.index),
            segment_ids=write(self.segment_ids, segment_ids, self.index),
            index=self.index + key.shape[1],
            **others,
        )
