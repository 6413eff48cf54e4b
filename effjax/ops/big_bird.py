"""BigBird towards both sides, where the last block of every example, wherever that ends, is global."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from effjax.ops.patterns import GlobalTokens, big_bird
from effjax.ops.sparse import sparse_attention


def big_bird_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    *,
    block: int,
    n_random: int = 3,
    n_window: int = 3,
    n_global: int = 1,
    among: int = 64,
    seed: int = 0,
    padding_mask: Bool[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    **options,
) -> Float[Array, "B T N H"]:
    """Attends to the blocks beside one's own, the first blocks, the last one, and a few random ones.

    The last block is the one that holds an example's last valid position, so that padding changes nothing. It moves
    to the end of the array, where it has the same place in every example; then the rule is one of positions alone.

    Args:
      q: queries.
      k: keys.
      v: values.
      block, n_random, n_window, n_global, among, seed: see `effjax.ops.patterns.big_bird`.
      padding_mask: True at keys that are there.
      segment_ids: document of each position; a query sees only its own.
      **options: of `effjax.ops.sparse.sparse_attention`.

    Returns:
      The mixed values, in the dtype of q.

    Raises:
      ValueError: sizes that make no sense.

    Source: Zaheer et al. 2020 (arXiv 2007.14062), section 2 and appendix D; first and last block global as in the
    authors' code.
    """
    batch, length = q.shape[:2]
    pattern = big_bird(block, n_random=n_random, n_window=n_window, n_global=n_global, among=among, seed=seed)
    pattern |= GlobalTokens(tuple(range(length, length + block)))
    there = jnp.ones((batch, length), bool) if padding_mask is None else padding_mask
    time = jnp.arange(length)
    last_block = jnp.max(jnp.where(there, time, 0), axis=1, keepdims=True) // block
    places = last_block * block + jnp.arange(block)
    examples = jnp.arange(batch)[:, None]

    def with_copy(x, fill=0):
        return jnp.concatenate([x, x.at[examples, places].get(mode="fill", fill_value=fill)], axis=1)

    moved = time // block == last_block
    keys_there = jnp.concatenate([there & ~moved, with_copy(there, False)[:, length:]], axis=1)
    y = sparse_attention(
        *(with_copy(x) for x in (q, k, v)),
        pattern=pattern,
        padding_mask=keys_there,
        segment_ids=None if segment_ids is None else with_copy(segment_ids),
        **options,
    )
    return y[:, :length].at[examples, places].set(y[:, length:], mode="drop")
