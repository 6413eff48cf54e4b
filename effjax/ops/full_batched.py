"""Exact attention for accelerators: batch, heads and queries stay whole, so that any of them may be sharded.

A scan over key blocks with an online softmax; a step holds the scores of one block, so memory is linear in length.
Block b of n holds the keys b, b + n, b + 2n, …: a device that holds a stretch of the keys has its share of every block,
and a step moves one block, not the whole sequence.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from effjax.ops.masking import FLOOR, MASKED, end_softmax, keep_scale, pad_ids

BLOCK = 512  # keys per step


class _Keys(NamedTuple):
    """What a step of the scan sees of the keys; the scanned arrays have a leading axis of blocks."""

    k: Any  # [B, S, K, H]
    v: Any
    bias: Any  # [B|1, N|1, T|1, S] or None
    mask: Any
    ids: Any  # [B, S] or None
    positions: Any  # [S]


def forward(q, k, v, bias, rules, *, causal, dropout_rate):
    """Returns (out [B,T,N,H], logsumexp [B,N,T] float32); q is already scaled."""
    accumulator = jnp.promote_types(q.dtype, jnp.float32)
    q_groups = _group(q, k.shape[2])
    batch, length, groups, shared, width = q_groups.shape

    def visit(state, block):
        highest, total, weighted = state
        s = _scores(q_groups, block, rules, causal=causal)
        new = jnp.maximum(highest, s.max(-1))
        p = jnp.exp(s - new[..., None])
        shrink = jnp.exp(highest - new)
        total = total * shrink + p.sum(-1)
        if dropout_rate:
            p = p * _keep(rules, block, p, dropout_rate)
        values = jnp.einsum("bkgts,bskh->bkgth", p.astype(v.dtype), block.v, preferred_element_type=accumulator)
        return (new, total, weighted * shrink[..., None] + values), None

    rows = (batch, groups, shared, length)
    init = (jnp.full(rows, FLOOR, accumulator), jnp.zeros(rows, accumulator), jnp.zeros((*rows, width), accumulator))
    state, _ = lax.scan(visit, init, _key_blocks(k, v, bias, rules))
    out, lse = end_softmax(*state)
    return _ungroup(out, "bkgth->btkgh").astype(q.dtype), lse.reshape(batch, -1, length)


def backward(q, k, v, bias, rules, out, lse, g, *, causal, dropout_rate):
    """Returns the gradients of (q, k, v, bias)."""
    accumulator = jnp.promote_types(q.dtype, jnp.float32)
    q_groups, g_groups = _group(q, k.shape[2]), _group(g.astype(q.dtype), k.shape[2])
    lse = lse.reshape(lse.shape[0], *q_groups.shape[2:4], -1)
    delta = jnp.einsum("btkgh,btkgh->bkgt", _group(out, k.shape[2]), g_groups, preferred_element_type=accumulator)

    def visit(grad_q, block):
        s = _scores(q_groups, block, rules, causal=causal)
        p = jnp.exp(s - lse[..., None])
        grad_p = jnp.einsum("btkgh,bskh->bkgts", g_groups, block.v, preferred_element_type=accumulator)
        dropped = p
        if dropout_rate:
            keep = _keep(rules, block, p, dropout_rate)
            dropped, grad_p = p * keep, grad_p * keep
        grad_s = p * (grad_p - delta[..., None])
        grad_v = jnp.einsum("bkgts,btkgh->bskh", dropped.astype(v.dtype), g_groups, preferred_element_type=accumulator)
        grad_bias = None if bias is None else _sum_like(grad_s, block.bias)
        grad_s = grad_s.astype(q.dtype)
        grad_k = jnp.einsum("bkgts,btkgh->bskh", grad_s, q_groups, preferred_element_type=accumulator)
        grad_q += jnp.einsum("bkgts,bskh->bkgth", grad_s, block.k, preferred_element_type=accumulator)
        return grad_q, (grad_k.astype(k.dtype), grad_v.astype(v.dtype), grad_bias)

    batch, length, *heads, width = q_groups.shape
    init = jnp.zeros((batch, *heads, length, width), accumulator)
    grad_q, (grad_k, grad_v, grad_bias) = lax.scan(visit, init, _key_blocks(k, v, bias, rules))
    grad_k, grad_v = _join(grad_k, 1)[:, : k.shape[1]], _join(grad_v, 1)[:, : k.shape[1]]
    if bias is not None:
        grad_bias = _join(grad_bias, 3)[..., : k.shape[1]]
    return _ungroup(grad_q, "bkgth->btkgh").astype(q.dtype), grad_k, grad_v, grad_bias


def _group(x, groups):
    """[B, T, N, H] -> [B, T, K, N/K, H]: query heads that share a key head stand together."""
    batch, length, heads, width = x.shape
    return x.reshape(batch, length, groups, heads // groups, width)


def _ungroup(x, order):
    x = jnp.einsum(order, x)
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _key_blocks(k, v, bias, rules):
    """Splits everything that has a key axis into blocks; a key that is not there is visible to no query."""
    batch, keys = k.shape[:2]
    block = min(keys, BLOCK)
    padded = -(-keys // block) * block

    def split(x, axis):
        if x is None:
            return None
        x = jnp.pad(x, [(0, padded - x.shape[axis] if a == axis else 0) for a in range(x.ndim)])
        return jnp.moveaxis(x.reshape(*x.shape[:axis], block, -1, *x.shape[axis + 1 :]), axis + 1, 0)

    ids = rules.key_ids
    if ids is not None or padded > keys:
        ids = pad_ids(ids, batch, keys, padded, keys=True)
    return _Keys(
        split(k, 1), split(v, 1), split(bias, 3), split(rules.mask, 3), split(ids, 1), split(jnp.arange(padded), 0)
    )


def _join(blocks, axis):
    """The inverse of splitting `axis` into blocks."""
    x = jnp.moveaxis(blocks, 0, axis + 1)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _pair(x, groups):
    """[B|1, N|1, T|1, S] -> [B|1, K|1, N/K|1, T|1, S]."""
    heads = (1, 1) if x.shape[1] == 1 else (groups, x.shape[1] // groups)
    return x.reshape(x.shape[0], *heads, *x.shape[2:])


def _scores(q_groups, block, rules, *, causal):
    """Logits [B, K, N/K, T, S] of one block of keys, MASKED where the query may not see the key."""
    length, groups = q_groups.shape[1:3]
    accumulator = jnp.promote_types(q_groups.dtype, jnp.float32)
    s = jnp.einsum("btkgh,bskh->bkgts", q_groups, block.k, preferred_element_type=accumulator)
    if block.bias is not None:
        s = s + _pair(block.bias, groups)
    visible = []
    if causal:
        query = rules.query_offset[:, None] + jnp.arange(length)
        visible.append((query[:, :, None] >= block.positions)[:, None, None])
    if block.ids is not None:
        query_ids = pad_ids(rules.query_ids, q_groups.shape[0], length, length, keys=False)
        visible.append((query_ids[:, :, None] == block.ids[:, None, :])[:, None, None])
    if block.mask is not None:
        visible.append(_pair(block.mask, groups))
    for allowed in visible:
        s = jnp.where(allowed, s, MASKED)
    return s


def _sum_like(grad_s, bias):
    """Sums the gradient of the logits over the axes along which the bias is repeated."""
    grad = grad_s.reshape(grad_s.shape[0], -1, *grad_s.shape[3:])
    repeated = tuple(a for a in range(3) if bias.shape[a] == 1)
    return grad.sum(repeated, keepdims=True)


def _keep(rules, block, p, rate):
    """Dropout factors of one block of keys, the same in both passes."""
    return keep_scale(jax.random.fold_in(rules.dropout_key, block.positions[0]), p.shape, rate, p.dtype)
