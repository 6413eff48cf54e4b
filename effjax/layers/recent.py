"""The last rows of a stream, whatever a family keeps of them: inputs, or keys and values."""

from typing import Any, Self

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


@flax.struct.dataclass
class RecentRows:
    """The last M rows of a stream in order of time, the newest last. O(M), whatever the length of the stream."""

    rows: tuple[jax.Array, ...]  # [B, M, ...] each
    segment_ids: jax.Array  # [B, M], -1 where empty or padded
    index: jax.Array  # tokens seen so far

    @classmethod
    def empty(cls, batch_size: int, slots: int, widths, dtype: Any, *, segment: int = -1, **others) -> Self:
        """Before the first token.

        Args:
          batch_size, slots: B and M.
          widths: what follows `[B, M]` in the shape of each array of rows.
          dtype: of the rows.
          segment: of the slots that are still empty; 0: they are not, but rows of zeros.
          **others: fields that a subclass adds.
        """
        rows = tuple(jnp.zeros((batch_size, slots, *width), dtype) for width in widths)
        segments = jnp.full((batch_size, slots), segment, jnp.int32)
        return cls(rows=rows, segment_ids=segments, index=jnp.zeros((), jnp.int32), **others)

    def extend(
        self, new: tuple[jax.Array, ...], segment_ids: Int[Array, "B T"], **others
    ) -> tuple[tuple[jax.Array, ...], Int[Array, "B S"], Self]:
        """Old and new rows, `S = M + T`, through the old ones of which no gradient flows; their segments; and the state
        after the new ones."""
        slots, length = self.segment_ids.shape[1], segment_ids.shape[1]
        join = lambda old, new: jnp.concatenate([jax.lax.stop_gradient(old).astype(new.dtype), new], axis=1)
        rows = tuple(map(join, self.rows, new))
        segments = join(self.segment_ids, segment_ids)
        latest = lambda row, old: row[:, row.shape[1] - slots :].astype(old.dtype)
        state = self.replace(
            rows=tuple(map(latest, rows, self.rows)),
            segment_ids=latest(segments, self.segment_ids),
            index=self.index + length,
            **others,
        )
        return rows, segments, state
