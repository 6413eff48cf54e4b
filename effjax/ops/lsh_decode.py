"""LSH attention as it is meant, without chunks: dense over a cache, to continue a sequence and as the oracle."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Int32

from effjax.ops.lsh_rounds import unit_keys
from effjax.ops.masking import FLOOR, MASKED

_QUERY_BLOCK = 128  # queries whose scores exist at once: a long prompt needs no n x n array


def lsh_decode(
    qk_new: Float[Array, "B T N H"],
    k_cache: Float[Array, "B S N H"],
    v_cache: Float[Array, "B S N H"],
    *,
    buckets_new: Int32[Array, "B T N R"],
    bucket_cache: Int32[Array, "B S N R"],
    query_offset: int | Int[Array, ""] | Int[Array, " B"],
    scaling: str = "unit_keys",
    correct_duplicates: bool = False,
    padding_mask: Bool[Array, "B S"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    key_segment_ids: Int[Array, "B S"] | None = None,
    self_penalty: float = 1e5,
) -> Float[Array, "B T N H"]:
    """New positions attend to all past positions that share a bucket with them in some round.

        o_i = sum over j <= i of w_ij exp(l_ij) v_j / the same sum without v_j

    with the logits of `lsh_attention`; N_ij is the number of rounds in which i and j share a bucket, and w_ij is N_ij,
    or with `correct_duplicates` 1 where N_ij > 0. With `same_bucket` and a chunk before `lsh_attention` equals this
    if no bucket of any round holds more than chunk_size + 1 positions. Cost O(t S).

    Args:
      qk_new: shared queries and keys of the new positions.
      k_cache: the same (not normalised) of all positions up to now, the new ones included; later ones are not read.
      v_cache: their values.
      buckets_new: buckets of the new positions.
      bucket_cache: buckets of all positions.
      query_offset: position of the first new one, shared or one per example.
      scaling, correct_duplicates, self_penalty: as in `lsh_attention`.
      padding_mask: True at cached positions that are real.
      segment_ids: documents of the new positions; key_segment_ids: of the cached ones. Given together.

    Returns:
      [B,t,N,H]; 0 where a position may attend to nothing.

    Raises:
      ValueError: segment_ids without key_segment_ids, or the other way round.

    Source: Kitaev et al., Reformer (arXiv 2001.04451), section 2, P_i before chunking.
    """
    if (segment_ids is None) != (key_segment_ids is None):
        missing = "segment_ids" if segment_ids is None else "key_segment_ids"
        raise ValueError(f"{missing}=None: segment_ids and key_segment_ids are allowed only together")
    batch, new, _, _ = qk_new.shape
    accumulator = jnp.promote_types(qk_new.dtype, jnp.float32)
    keys = unit_keys(k_cache, scaling)
    key_positions = jnp.arange(k_cache.shape[1])
    positions = jnp.reshape(query_offset, (-1, 1)) + jnp.broadcast_to(jnp.arange(new), (batch, new))

    @jax.checkpoint
    def attend(block):
        q, buckets, positions, segments = block
        logits = jnp.einsum("btnh,bsnh->bnts", q, keys, preferred_element_type=accumulator)
        itself = key_positions == positions[:, None, :, None]
        logits = jnp.where(itself, -self_penalty, logits)
        weight = sum(
            (buckets[..., r].swapaxes(1, 2)[..., None] == bucket_cache[..., r].swapaxes(1, 2)[:, :, None])
            for r in range(buckets.shape[-1])
        )
        allowed = (key_positions <= positions[:, None, :, None]) & (weight > 0)
        if padding_mask is not None:
            allowed &= padding_mask[:, None, None]
        if segments is not None:
            allowed &= segments[:, None, :, None] == key_segment_ids[:, None, None]
        logits = jnp.where(allowed, logits, MASKED)
        weight = 1 if correct_duplicates else weight
        p = weight * jnp.exp(logits - jnp.maximum(logits.max(-1, keepdims=True), FLOOR))
        total = p.sum(-1, keepdims=True)
        p = (p / jnp.where(total == 0, 1, total)).astype(v_cache.dtype)
        return jnp.einsum("bnts,bsnh->btnh", p, v_cache, preferred_element_type=accumulator).astype(qk_new.dtype)

    blocks = -(-new // _QUERY_BLOCK)
    size = -(-new // blocks)
    cut = lambda x: _pad(x, blocks * size).reshape(batch, blocks, size, *x.shape[2:]).swapaxes(0, 1)
    out = lax.map(attend, jax.tree.map(cut, (qk_new, buckets_new, positions, segment_ids)))
    return out.swapaxes(0, 1).reshape(batch, blocks * size, *qk_new.shape[2:])[:, :new]


def _pad(x, length):
    return jnp.pad(x, ((0, 0), (0, length - x.shape[1])) + ((0, 0),) * (x.ndim - 2))
