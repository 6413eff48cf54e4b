"""Local attention for accelerators: batch, chunks and heads are plain axes of every product, so each may be sharded.

A neighbour is a shift along the axis of chunks, which the partitioner turns into an exchange of one chunk at the edges.
"""

import jax
import jax.numpy as jnp
from jax import lax

from effjax.ops.masking import FLOOR, PADDED, end_softmax


def forward(reach, q, k, v, rules):
    """Returns (out [B,T,N,H], logsumexp [B,N,T] float32); q is already scaled, T a whole number of chunks."""
    accumulator = jnp.promote_types(q.dtype, jnp.float32)
    batch, length, heads, width = q.shape

    def chunks(x):
        return x.reshape(batch, -1, reach.chunk, *x.shape[2:])

    q_chunks, query_ids, key_ids = chunks(q), chunks(rules.query_ids), chunks(rules.key_ids)

    def neighbour(x, offset):
        return shift(chunks(x), offset, circular=reach.circular)

    def logits(offset):
        ids = shift(key_ids, offset, circular=reach.circular, fill=PADDED)
        s = jnp.einsum("bcqnh,bcknh->bncqk", q_chunks, neighbour(k, offset), preferred_element_type=accumulator)
        return reach.apply(s, offset, query_ids[:, None], ids[:, None])

    s = jnp.stack([logits(offset) for offset in reach.offsets])
    highest = lax.stop_gradient(jnp.maximum(s.max((0, -1)), FLOOR))
    p = jnp.exp(s - highest[..., None])
    total = p.sum((0, -1))
    if rules.keep is not None:
        p = p * rules.keep[:, None, None, None]
    p = p.astype(v.dtype)
    weighted = sum(
        jnp.einsum("bncqk,bcknh->bncqh", p[i], neighbour(v, offset), preferred_element_type=accumulator)
        for i, offset in enumerate(reach.offsets)
    )
    out, lse = end_softmax(highest, total, weighted)
    out = jnp.einsum("bncqh->bcqnh", out).reshape(batch, length, heads, width)
    return out.astype(q.dtype), lse.reshape(batch, heads, length)


def backward(reach, q, k, v, rules, out, lse, g):
    """Returns the gradients of (q, k, v): recomputes the weights, so that none are kept between the passes."""
    del out, lse
    _, pull = jax.vjp(lambda q, k, v: forward(reach, q, k, v, rules)[0], q, k, v)
    return pull(g)


def shift(x, offset, *, circular, fill=0):
    """Row u of axis 1 becomes row u + offset; beyond the ends `fill`, or the other end if circular."""
    if offset == 0:
        return x
    if circular:
        return jnp.roll(x, -offset, axis=1)
    inside = x[:, offset:] if offset > 0 else x[:, :offset]
    margin = (0, offset) if offset > 0 else (-offset, 0)
    return jnp.pad(inside, ((0, 0), margin, *[(0, 0)] * (x.ndim - 2)), constant_values=fill)
