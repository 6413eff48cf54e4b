"""Patterns on the Pallas splash attention that JAX ships for TPU: its mask, worked out block by block from the rule.

The kernel knows no orders of positions, so it is the best choice only for patterns that are block-local as they are.
"""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jax.sharding import get_abstract_mesh

from effjax.ops import full_kernels
from effjax.ops.pattern_algebra import Span
from effjax.ops.sparse_plan import by_head


def choose(implementation, pattern, q, k, rules, *, query_offset, plain):
    """Picks splash attention for a call.

    Returns a function of (q, k, v) with q already scaled, or None where the forms written here are to run.
    Raises NotImplementedError where the kernel is named and cannot serve.
    """
    mesh = get_abstract_mesh()
    traced_for = jax.default_backend() if mesh.empty else mesh.abstract_device.platform
    if implementation not in (None, "splash") or (implementation is None and traced_for != "tpu"):
        return None
    reason = full_kernels._refusal(
        "splash", "tpu", traced_for, mesh, q, k, rules.key_ids, False, query_offset, plain
    ) or _refusal(pattern, mesh, q, k, rules, query_offset)
    if reason is None:
        if implementation is None and not all(part.plain for h in range(q.shape[2]) for part in pattern.parts(h)):
            return None
        return partial(_splash, mesh, pattern, query_offset, rules)
    if implementation == "splash":
        raise NotImplementedError(f"implementation='splash' cannot serve: {reason}")
    return None


def _refusal(pattern, mesh, q, k, rules, query_offset):
    """Why the kernel cannot serve this pattern, or None."""
    length, heads = q.shape[1:3]
    heads_axes = () if mesh.empty else full_kernels._axes(mesh)[1]
    if by_head(pattern, heads) and any(mesh.shape[axis] > 1 for axis in heads_axes):
        return f"the pattern differs between heads and the mesh splits them over {heads_axes}"
    if rules.key_ids is not None and (query_offset or length != k.shape[1]):
        return "with padding or segments it takes as many queries as keys and no query_offset"
    position = np.arange(length)
    for head in range(heads if by_head(pattern, heads) else 1):
        if rules.key_ids is not None and not np.all(pattern.allows(position, position, head)):
            return (
                "with padding or segments every query has to see itself: the kernel's rows that see nothing are noise"
            )
    return None


def _splash(mesh, pattern, query_offset, rules, q, k, v):
    run = partial(_on_one_device, pattern, query_offset)
    if not mesh.empty and (names := set(full_kernels._split_axes(mesh))):
        batch, heads = full_kernels._axes(mesh)
        ids = None if rules.key_ids is None else P(batch, None)
        run = jax.shard_map(
            run,
            in_specs=(*[P(batch, None, heads, None)] * 3, ids, ids),
            out_specs=P(batch, None, heads, None),
            axis_names=names,
            check_vma=False,
        )
    out = run(q, k, v, rules.query_ids, rules.key_ids)
    if rules.key_ids is not None:  # a position that is not there does not see itself either, and may see nothing
        out = jnp.where((rules.query_ids == rules.key_ids)[:, :, None, None], out, 0)
    return out


def _on_one_device(pattern, query_offset, q, k, v, query_ids, key_ids):
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    shape, heads = (q.shape[1], k.shape[1]), q.shape[2]
    masks = [_mask(pattern, head if by_head(pattern, heads) else 0, shape, query_offset) for head in range(heads)]
    block_q, block_kv = (next(b for b in (512, 384, 256, 128) if size % b == 0) for size in shape)
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask(masks),
        block_sizes=splash.BlockSizes(
            block_q=block_q,
            block_kv=block_kv,
            block_q_dkv=block_q,
            block_kv_dkv=block_kv,
            block_q_dq=block_q,
            block_kv_dq=block_kv,
        ),
    )
    segments = None if key_ids is None else splash.SegmentIds(query_ids, key_ids)
    out = jax.vmap(kernel)(q.swapaxes(1, 2), k.swapaxes(1, 2), v.swapaxes(1, 2), segments)
    out = out.swapaxes(1, 2).astype(q.dtype)
    sees = np.stack([mask.rows_that_see() for mask in dict.fromkeys(masks)])
    if not sees.all():
        which = [list(dict.fromkeys(masks)).index(mask) for mask in masks]
        out = jnp.where(jnp.asarray(sees[which].T)[None, :, :, None], out, 0)
    return out


@lru_cache(maxsize=64)
def _mask(pattern, head, shape, query_offset):
    """The rule of one head as splash attention asks for it: `mask[rows, columns]`, never whole."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    class PatternMask(splash.Mask):
        @property
        def shape(self):
            return shape

        def __getitem__(self, index):
            rows, columns = (np.arange(size)[cut] for size, cut in zip(shape, index))
            rows = rows + query_offset
            some, every = pattern.bounds(Span(*_ends(rows)), Span(*_ends(columns)), head)
            if every.item() or not some.item():
                return np.full((rows.size, columns.size), every.item())
            allowed = pattern.allows(rows[:, None], columns[None, :], head)
            return np.broadcast_to(allowed, (rows.size, columns.size))

        def rows_that_see(self):
            """bool [queries]: whether a query sees any key."""
            step = 512
            return np.concatenate(
                [
                    np.any(
                        [self[slice(i, i + step), slice(j, j + step)].any(1) for j in range(0, shape[1], step)], axis=0
                    )
                    for i in range(0, shape[0], step)
                ]
            )

    return PatternMask()


def _ends(positions):
    return positions[:1], positions[-1:], 1
