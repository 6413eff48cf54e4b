"""Relative attention from its definition: every pair of a query and a key by itself, in the precision of its inputs."""

import jax
import jax.numpy as jnp
import numpy as np


def dense(
    q,
    k,
    v,
    rel,
    content_bias=0.0,
    position_bias=0.0,
    span=None,
    *,
    rel_start=0,
    min_distance=0,
    window=None,
    ramp=32.0,
    query_offset=None,
    scale=None,
    visible=True,
):
    """(out, logarithm of the sum, 0 where nothing is seen); `visible`, `[B|1, N|1, T, S]`, holds what else decides."""
    batch, length, heads, width = q.shape
    offset = k.shape[1] - length if query_offset is None else query_offset
    distance = np.arange(length)[:, None] + offset - np.arange(k.shape[1])
    near = np.ones(distance.shape, bool)
    if min_distance is not None:
        near &= distance >= min_distance
    if window is not None:
        near &= distance <= window
    by_pair = rel[np.clip(distance - rel_start, 0, len(rel) - 1)]  # [T, S, N|1, H]
    by_pair = jnp.broadcast_to(by_pair, (*distance.shape, heads, width))
    s = jnp.einsum("btnh,bsnh->bnts", q + content_bias, k) + jnp.einsum("btnh,tsnh->bnts", q + position_bias, by_pair)
    s = s * (width**-0.5 if scale is None else scale)
    weight = jnp.ones_like(s)
    if span is not None:
        reach = jnp.moveaxis(jnp.broadcast_to(span, (batch, length, heads)), 1, 2)[..., None]
        weight = jnp.clip((ramp + reach - (distance - min_distance)) / ramp, 0, 1)
    weight = jnp.where(near & visible, weight, 0)
    highest = jax.lax.stop_gradient(jnp.max(jnp.where(weight > 0, s, -1e20), -1, keepdims=True))
    e = weight * jnp.exp(jnp.where(weight > 0, s - highest, 0))
    total = e.sum(-1, keepdims=True)
    some = total > 0
    out = jnp.einsum("bnts,bsnh->btnh", e / jnp.where(some, total, 1), v)
    lse = jnp.where(some, jnp.log(jnp.where(some, total, 1)) + highest, 0)
    return out, lse[..., 0].swapaxes(1, 2)
