"""FAVOR+ from its definition: explicit feature vectors, all pairs of positions, nothing stabilised."""

import jax
import jax.numpy as jnp
import numpy as np

from effjax.ops.favor_features import GENERALISED, default_epsilon


def phi(x, projection, kernel, epsilon=None):
    """Features of x [..., H]; epsilon counts in units of the vector's own greatest exponential, held constant."""
    epsilon = default_epsilon(kernel) if epsilon is None else epsilon
    dots = x if projection is None else x @ jnp.swapaxes(projection, -1, -2)
    m, half = dots.shape[-1], 0.5 * jnp.sum(x * x, -1, keepdims=True)
    if kernel in GENERALISED:
        return GENERALISED[kernel](dots) + epsilon
    if kernel == "trigonometric":
        return jnp.exp(half) * jnp.concatenate([jnp.cos(dots), jnp.sin(dots)], -1) / np.sqrt(m)
    if kernel == "hyperbolic":
        dots, m = jnp.concatenate([dots, -dots], -1), 2 * m
    unit = jax.lax.stop_gradient(jnp.exp(dots - half).max(-1, keepdims=True))
    return (jnp.exp(dots - half) + epsilon * unit) / np.sqrt(m)


def dense_favor(q, k, v, projection, visible, *, kernel="softmax", epsilon=None):
    """q, k, v [B, T, N, H], projection [M, H] or [N, M, H], visible bool [B|1, 1, T, T]; 0 where nothing is seen."""
    q, k = (jnp.swapaxes(x, 1, 2) * x.shape[-1] ** -0.25 for x in (q, k))
    weights = phi(q, projection, kernel, epsilon) @ jnp.swapaxes(phi(k, projection, kernel, epsilon), -1, -2)
    weights = jnp.where(visible, weights, 0)
    total = weights.sum(-1, keepdims=True)
    weights = jnp.where(visible.any(-1, keepdims=True), weights / jnp.where(total == 0, 1, total), 0)
    return jnp.einsum("bnts,bsnh->btnh", weights, v)
