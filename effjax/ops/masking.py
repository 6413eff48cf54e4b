"""Who may attend to whom, and the end of an online softmax: what the exact attentions share."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

# Finite, so that no inf - inf can arise. A running maximum starts at FLOOR, far below any logit yet far above MASKED:
# exp(MASKED - FLOOR) is exactly 0, so a row that may attend to nothing sums to 0 instead of averaging what is masked.
MASKED = -1e30
FLOOR = -1e29
PADDED = jnp.iinfo(jnp.int32).min  # the id of a key that no query has


class Rules(NamedTuple):
    """What decides, besides causality, whether query i may attend to key j; None where there is no rule."""

    mask: Bool[Array, "#B #N #T S"] | None
    query_ids: Int[Array, "B T"] | None  # i may see j only if query_ids[i] == key_ids[j]
    key_ids: Int[Array, "B S"] | None
    query_offset: Int[Array, " B"]  # query i stands at position i + query_offset
    dropout_key: Key[Array, ""] | None


def pair_ids(
    padding_mask: Bool[Array, "B S"] | None,
    segment_ids: Int[Array, "B T"] | None,
    key_segment_ids: Int[Array, "B S"] | None,
    query_length: int,
) -> tuple[Int[Array, "B T"] | None, Int[Array, "B S"] | None]:
    """Writes padding and segments as one rule: a query sees the keys that carry its id.

    Args:
      padding_mask: True at keys that are there.
      segment_ids: document of each query.
      key_segment_ids: document of each key, where segment_ids is given.
      query_length: T.

    Returns:
      (query_ids, key_ids), or (None, None) where neither rule is given.
    """
    if segment_ids is not None:
        query_ids, key_ids = segment_ids.astype(jnp.int32), key_segment_ids.astype(jnp.int32)
    elif padding_mask is not None:
        query_ids = jnp.zeros((padding_mask.shape[0], query_length), jnp.int32)
        key_ids = jnp.zeros(padding_mask.shape, jnp.int32)
    else:
        return None, None
    if padding_mask is not None:
        key_ids = jnp.where(padding_mask, key_ids, PADDED)
    return query_ids, key_ids


def pad_ids(
    ids: Int[Array, "B L"] | None, batch_size: int, length: int, padded: int, *, keys: bool
) -> Int[Array, "B P"] | None:
    """Extends ids to a padded length; keys that are not there match no query. None stays None if no id is needed."""
    if ids is None:
        ids = jnp.zeros((batch_size, length), jnp.int32)
    return jnp.pad(ids, ((0, 0), (0, padded - length)), constant_values=PADDED if keys else 0)


def end_softmax(
    highest: Float[Array, "*rows"], total: Float[Array, "*rows"], weighted: Float[Array, "*rows H"]
) -> tuple[Float[Array, "*rows H"], Float[Array, "*rows"]]:
    """Turns the running maximum m, sum l and weighted values o of an online softmax into o / l and m + log l.

    A row that saw no key gives 0, and a log-sum-exp of +1e30 under which the backward pass finds every weight to be 0.
    """
    empty = total == 0
    total = jnp.where(empty, 1, total)
    return weighted / total[..., None], jnp.where(empty, -MASKED, highest + jnp.log(total))


def keep_scale(key: Key[Array, ""], shape: tuple[int, ...], rate: float, dtype: Any) -> Float[Array, "..."]:
    """Dropout as factors: 0 with probability `rate` (in steps of 2^-16), else what keeps the expectation."""
    threshold = round(rate * 2**16)
    kept = jax.random.bits(key, shape, jnp.uint16) >= jnp.uint16(threshold)
    return jnp.where(kept, jnp.asarray(1 / (1 - threshold / 2**16), dtype), 0)
