"""Adaptive attention span from its definition: by loops in float64, and dense, so that it can be differentiated."""

import math

import jax.numpy as jnp
import numpy as np


def soft_mask(x, z, ramp):
    """m_z(x) for distance x = 1, 2, … and span z."""
    return min(max((ramp + z - (x - 1)) / ramp, 0.0), 1.0)


def by_loops(q, k, v, *, span, ramp, max_span, rel_embedding, offset=None, visible=lambda b, t, j: True):
    """q `[B, T, N, H]`, k and v `[B, S, N, H]`, span `[N]` or `[B, T, N]`: one weight at a time."""
    q, k, v, p, span = (np.asarray(x, np.float64) for x in (q, k, v, rel_embedding, span))
    (batch, length, heads, width), out = q.shape, np.zeros(q.shape)
    offset = k.shape[1] - length if offset is None else offset
    span = np.broadcast_to(span, (batch, length, heads))
    for b, t, n in np.ndindex(batch, length, heads):
        weights = {}
        for x in range(1, max_span + 1):
            j = t + offset - x
            if 0 <= j < k.shape[1] and visible(b, t, j):
                logit = (q[b, t, n] @ k[b, j, n] + q[b, t, n] @ p[x - 1]) / math.sqrt(width)
                weights[j] = soft_mask(x, span[b, t, n], ramp) * math.exp(logit)
        total = sum(weights.values())
        for j, weight in weights.items():
            if total > 0:
                out[b, t, n] += weight / total * v[b, j, n]
    return out


def dense(q, k, v, span, rel_embedding, *, ramp, max_span, offset=None, visible=True):
    """The same with arrays of queries x keys, in the precision of its inputs; visible broadcasts to [B, N, T, S]."""
    length, keys = q.shape[1], k.shape[1]
    offset = keys - length if offset is None else offset
    x = np.arange(length)[:, None] + offset - np.arange(keys)
    inside = (x >= 1) & (x <= max_span)
    content = jnp.einsum("btnh,bsnh->bnts", q, k)
    place = jnp.einsum("btnh,tsh->bnts", q, rel_embedding[np.clip(x - 1, 0, max_span - 1)])
    logits = (content + place) / np.sqrt(q.shape[-1])
    span = jnp.broadcast_to(span, q.shape[:3]).swapaxes(1, 2)[..., None]
    m = (ramp + span - (x - 1)) / ramp
    m = jnp.where(inside & visible, jnp.where(m < 0, 0, jnp.where(m > 1, 1, m)), 0)  # slope 1 where it touches 0 or 1
    e = m * jnp.exp(logits - logits.max(-1, keepdims=True))
    total = e.sum(-1, keepdims=True)
    return jnp.einsum("bnts,bsnh->btnh", e / jnp.where(total > 0, total, 1), v)
