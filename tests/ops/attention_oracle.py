"""Dense attention from its definition, in the precision of its inputs, and what the tests of attention share."""

import jax
import jax.numpy as jnp
import numpy as np


def dense_attention(q, k, v, visible, *, bias=0.0, scale=None, self_logit=None):
    """q [B,T,N,H], k and v [B,S,K,H], visible bool [B|1, N|1, T, S]; rows that see nothing give 0."""
    k, v = (jnp.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
    s = jnp.einsum("btnh,bsnh->bnts", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale) + bias
    if self_logit is not None:
        s = jnp.where(np.eye(s.shape[2], dtype=bool), self_logit, s)
    s = jnp.where(visible, s, -jnp.inf)
    highest = jnp.maximum(jax.lax.stop_gradient(s.max(-1, keepdims=True)), -1e9)
    e = jnp.exp(jnp.where(visible, s, 0) - jnp.where(visible, highest, 0)) * visible
    return jnp.einsum("bnts,bsnh->btnh", e / jnp.maximum(e.sum(-1, keepdims=True), 1e-300), v)


def random_arrays(*shapes, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


def value_and_grads(f, arrays, cotangent):
    """f(*arrays) and the gradients of sum(f * cotangent), compiled as one program."""

    @jax.jit
    def run(arrays, cotangent):
        out, pull = jax.vjp(f, *arrays)
        return out, *pull(cotangent.astype(out.dtype))

    return run(arrays, cotangent)


def assert_close(ours, theirs, bound, noise=0.0):
    """Largest difference over largest magnitude, array by array; `noise`: what one that should be zero may hold."""
    for a, b in zip(ours, theirs, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= bound * max(np.abs(b).max(), 1e-30) + noise
