"""A pattern among positions that are only known at run time: few queries against a cache, all keys of it visited."""

import jax
import jax.numpy as jnp
from jax import lax

from effjax.ops.masking import FLOOR, MASKED, end_softmax, pad_ids
from effjax.ops.sparse_rules import Block, add_bias, keep_factors, mask_ids

SCORES = 2**20  # of one head at a time, at most


def attend(pattern, options, q, k, v, rules, query_positions, key_positions):
    """Returns out [B,T,N,H]; q is already scaled, positions are [B,T] and [B,S].

    A scan over stretches of keys with an online softmax; differentiation goes through it and recomputes every step.
    """
    batch, length, heads, width = q.shape
    keys, groups = k.shape[1:3]
    accumulator = jnp.promote_types(q.dtype, jnp.float32)
    step = min(keys, max(128, SCORES // length))
    padded = -(-keys // step) * step
    ids = rules.key_ids
    if padded > keys or ids is not None:
        ids = pad_ids(ids, batch, keys, padded, keys=True)
        query_ids = rules.query_ids if rules.query_ids is not None else jnp.zeros((batch, length), jnp.int32)
    else:
        query_ids = None

    def split(x, fill=0):
        if x is None:
            return None
        x = jnp.pad(x, ((0, 0), (0, padded - keys), *[(0, 0)] * (x.ndim - 2)), constant_values=fill)
        return jnp.moveaxis(x.reshape(batch, -1, step, *x.shape[2:]), 1, 0)

    everyone = jnp.arange(batch), jnp.arange(heads)

    def visit(state, stretch):
        highest, total, weighted = state
        k_step, v_step, key, key_ids = stretch
        s = jnp.einsum(
            "btkgh,bskh->bkgts",
            q.reshape(batch, length, groups, heads // groups, width),
            k_step,
            preferred_element_type=accumulator,
        ).reshape(batch, heads, length, step)
        head = jnp.arange(heads)[None, :, None, None]
        allowed = pattern.allows(query_positions[:, None, :, None], key[:, None, None, :], head)
        blocks = jax.vmap(
            lambda b, query, key, query_ids, key_ids: jax.vmap(
                lambda n: Block(query, key, query_ids, key_ids, n, b * heads + n)
            )(everyone[1])
        )(everyone[0], query_positions, key, query_ids, key_ids)
        each = lambda f: jax.vmap(jax.vmap(f))
        s = each(lambda s, block: add_bias(options, rules.bias_arrays, s, block, transposed=False))(s, blocks)
        s = each(lambda s, block: mask_ids(s, block, transposed=False))(jnp.where(allowed, s, MASKED), blocks)
        new = jnp.maximum(highest, lax.stop_gradient(s.max(-1)))
        p = jnp.exp(s - new[..., None])
        shrink = jnp.exp(highest - new)
        total = total * shrink + p.sum(-1)
        if options.dropout_rate:
            p = p * each(lambda block: keep_factors(options, rules.seed, block, accumulator, transposed=False))(blocks)
        values = jnp.einsum(
            "bkgts,bskh->bkgth",
            p.astype(v.dtype).reshape(batch, groups, heads // groups, length, step),
            v_step,
            preferred_element_type=accumulator,
        ).reshape(batch, heads, length, width)
        return (new, total, weighted * shrink[..., None] + values), None

    shape = (batch, heads, length)
    init = (jnp.full(shape, FLOOR, accumulator), jnp.zeros(shape, accumulator), jnp.zeros((*shape, width), accumulator))
    stretches = (
        split(k),
        split(v),
        split(key_positions),
        None if ids is None else jnp.moveaxis(ids.reshape(batch, -1, step), 1, 0),
    )
    state, _ = lax.scan(jax.checkpoint(visit), init, stretches)
    out, _ = end_softmax(*state)
    return out.swapaxes(1, 2).astype(q.dtype)
