"""Exact attention for the CPU: one head at a time, blocks that stay in cache, blocks in the future never visited.

XLA's CPU matrix product is slow where a large operand is contracted over its rows, so the backward pass works on
transposed scores: with a key block in hand every large product is of the form A B or A B^T.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from effjax.ops.blocks import add_columns, product, rows, rows_of, transposed
from effjax.ops.loops import dynamic_loop
from effjax.ops.masking import FLOOR, MASKED, Rules, end_softmax, keep_scale, pad_ids


def forward(q, k, v, bias, rules, *, causal, dropout_rate):
    """Returns (out [B,T,N,H], logsumexp [B,N,T] float32); q is already scaled."""
    (batch, length, heads, width), (keys, groups) = q.shape, k.shape[1:3]
    shared = heads // groups
    block_q, block_k = _blocks(length, keys, backward=False, causal=causal, dropout=dropout_rate > 0)
    q_heads, k_heads, v_heads = _by_head(q, block_q), _by_head(k, block_k), _by_head(v, block_k)
    n_q, n_k = q_heads.shape[1] // block_q, k_heads.shape[1] // block_k
    bias, rules = _pad(bias, rules, batch, (length, keys), (n_q * block_q, n_k * block_k))
    accumulator = jnp.promote_types(q.dtype, jnp.float32)
    offsets = (np.arange(n_q) + 1) * block_q + max(keys - length, 0)
    mean_trips = float(np.clip(-(-offsets // block_k), 0, n_k).mean()) if causal else float(n_k)

    def one_head(head):
        b, n = head // heads, head % heads
        q_head, k_head, v_head = q_heads[head], k_heads[head // shared], v_heads[head // shared]

        def one_query_block(i):
            q_block = rows(q_head, i, block_q)

            def visit(j, state):
                highest, total, weighted = state
                at = (b, n, i * block_q, j * block_k)
                s = product(q_block, rows(k_head, j, block_k).T, accumulator)
                s = _apply_rules(s, bias, rules, at, causal=causal, transposed=False)
                new = jnp.maximum(highest, s.max(-1))
                p = jnp.exp(s - new[:, None])
                shrink = jnp.exp(highest - new)
                total = total * shrink + p.sum(-1)
                if dropout_rate:
                    p = p * _keep(rules, head, at, p.shape, dropout_rate, accumulator)
                values = product(p.astype(v.dtype), rows(v_head, j, block_k), accumulator)
                return new, total, weighted * shrink[:, None] + values

            end = n_k
            if causal:
                end = jnp.clip(-(-((i + 1) * block_q + rules.query_offset[b]) // block_k), 0, n_k)
            init = (
                jnp.full(block_q, FLOOR, accumulator),
                jnp.zeros(block_q, accumulator),
                jnp.zeros((block_q, width), accumulator),
            )
            out, lse = end_softmax(*dynamic_loop(0, end, visit, init, mean_trips=mean_trips))
            return out.astype(q.dtype), lse

        return lax.map(one_query_block, jnp.arange(n_q))

    out, lse = lax.map(one_head, jnp.arange(batch * heads))
    lse = lse.reshape(batch, heads, -1)[:, :, :length]
    return _from_heads(out, batch, length), lse


def backward(q, k, v, bias, rules, out, lse, g, *, causal, dropout_rate):
    """Returns the gradients of (q, k, v, bias)."""
    (batch, length, heads, width), (keys, groups) = q.shape, k.shape[1:3]
    shared = heads // groups
    block_q, block_k = _blocks(length, keys, backward=True, causal=causal, dropout=dropout_rate > 0)
    accumulator = jnp.promote_types(q.dtype, jnp.float32)
    delta = jnp.einsum("btnh,btnh->bnt", out, g, preferred_element_type=accumulator)
    q_heads, g_heads = _by_head(q, block_q), _by_head(g.astype(q.dtype), block_q)
    k_heads, v_heads = _by_head(k, block_k), _by_head(v, block_k)
    n_q, n_k = q_heads.shape[1] // block_q, k_heads.shape[1] // block_k
    tail = ((0, 0), (0, 0), (0, n_q * block_q - length))
    # exp(s - 1e30) = 0: queries that are only padding weigh nothing.
    lse = jnp.pad(lse, tail, constant_values=-MASKED).reshape(batch * heads, -1)
    delta = jnp.pad(delta, tail).reshape(batch * heads, -1)
    bias, rules = _pad(bias, rules, batch, (length, keys), (n_q * block_q, n_k * block_k))
    starts = np.arange(n_k) * block_k - max(keys - length, 0)
    mean_trips = float((n_q - np.clip(starts // block_q, 0, n_q)).mean()) if causal else float(n_q)

    def one_head(grad_bias, head):
        b, n = head // heads, head % heads
        k_head, v_head = k_heads[head // shared], v_heads[head // shared]
        q_head, g_head, lse_head, delta_head = q_heads[head], g_heads[head], lse[head], delta[head]

        def one_key_block(carry, j):
            k_block, v_block = rows(k_head, j, block_k), rows(v_head, j, block_k)
            k_columns = transposed(k_block, accumulator)

            def visit(i, state):
                grad_q, grad_bias, grad_k, grad_v = state
                at = (b, n, i * block_q, j * block_k)
                q_block, g_block = rows(q_head, i, block_q), rows(g_head, i, block_q)
                s = product(k_block, q_block.T, accumulator)
                s = _apply_rules(s, bias, rules, at, causal=causal, transposed=True)
                p = jnp.exp(s - rows(lse_head, i, block_q))
                grad_p = product(v_block, g_block.T, accumulator)
                dropped = p
                if dropout_rate:
                    keep = _keep(rules, head, at, (block_q, block_k), dropout_rate, accumulator).T
                    dropped, grad_p = p * keep, grad_p * keep
                grad_s = p * (grad_p - rows(delta_head, i, block_q))
                grad_v += product(dropped.astype(g_block.dtype), g_block, accumulator)
                if bias is not None:
                    grad_bias = _add_bias_block(grad_bias, grad_s, at)
                grad_s = grad_s.astype(q.dtype)
                grad_k += product(grad_s, q_block, accumulator)
                grad_q = add_columns(grad_q, i * block_q, product(k_columns, grad_s, accumulator))
                return grad_q, grad_bias, grad_k, grad_v

            start = 0
            if causal:
                start = jnp.clip((j * block_k - rules.query_offset[b]) // block_q, 0, n_q)
            zeros = jnp.zeros((block_k, width), accumulator)
            *carry, grad_k, grad_v = dynamic_loop(start, n_q, visit, (*carry, zeros, zeros), mean_trips=mean_trips)
            return tuple(carry), (grad_k, grad_v)

        init = (jnp.zeros((width, n_q * block_q), accumulator), grad_bias)
        (grad_q, grad_bias), (grad_k, grad_v) = lax.scan(one_key_block, init, jnp.arange(n_k))
        return grad_bias, (rows_of(grad_q), grad_k, grad_v)

    grad_bias = None if bias is None else jnp.zeros(bias.shape, accumulator)
    grad_bias, (grad_q, grad_k, grad_v) = lax.scan(one_head, grad_bias, jnp.arange(batch * heads))
    grad_q = _from_heads(grad_q, batch, length).astype(q.dtype)
    grad_k, grad_v = (
        _from_heads(x, batch, keys).reshape(batch, keys, groups, -1, width).sum(3).astype(x_dtype)
        for x, x_dtype in ((grad_k, k.dtype), (grad_v, v.dtype))
    )
    if bias is not None:
        grad_bias = grad_bias[:, :, : min(length, bias.shape[2]), :keys]
    return grad_q, grad_k, grad_v, grad_bias


def _blocks(length, keys, *, backward, causal, dropout):
    """Block lengths (queries, keys): the fastest measured; dropout needs the same blocks forward and backward."""
    if causal:
        target_q = target_k = 256 if max(length, keys) <= 1024 else 512
    elif dropout:
        target_q = target_k = 512
    else:
        target_q, target_k = (512, 1024) if backward else (1024, 512)
    return _even_block(length, target_q), _even_block(keys, target_k)


def _even_block(length, target):
    """The length of equal blocks near `target`, so that little is lost at the ragged end."""
    count = -(-length // target)
    return length if count == 1 else -(-length // (count * 16)) * 16


def _by_head(x, block):
    """[B, L, N, H] -> [B * N, L padded to whole blocks, H]."""
    batch, length, heads, width = x.shape
    x = jnp.pad(x.swapaxes(1, 2).reshape(batch * heads, length, width), ((0, 0), (0, -length % block), (0, 0)))
    return x


def _from_heads(x, batch, length):
    """[B * N, ..., H] -> [B, L, N, H]."""
    heads, width = x.shape[0] // batch, x.shape[-1]
    return x.reshape(batch, heads, -1, width)[:, :, :length].swapaxes(1, 2)


def _pad(bias, rules, batch, lengths, padded):
    """Extends bias and rules to whole blocks; a key that is not there is visible to no query."""
    grow = [p - n for p, n in zip(padded, lengths)]

    def pad(x):
        if x is None:
            return None
        return jnp.pad(x, ((0, 0), (0, 0), (0, grow[0] if x.shape[2] > 1 else 0), (0, grow[1])))

    if rules.key_ids is not None or grow[1]:
        rules = rules._replace(
            query_ids=pad_ids(rules.query_ids, batch, lengths[0], padded[0], keys=False),
            key_ids=pad_ids(rules.key_ids, batch, lengths[1], padded[1], keys=True),
        )
    return pad(bias), rules._replace(mask=pad(rules.mask))


def _apply_rules(s, bias, rules: Rules, at, *, causal, transposed):
    """Adds the bias and masks what query may not see; s is [queries, keys], or its transpose."""
    b, _, row, column = at
    block_q, block_k = s.shape[::-1] if transposed else s.shape

    def across(query, key):
        return (query[None, :], key[:, None]) if transposed else (query[:, None], key[None, :])

    if bias is not None:
        block = _pair_block(bias, at, block_q, block_k)
        s = s + (block.T if transposed else block)
    visible = []
    if causal:
        query, key = across(row + rules.query_offset[b] + jnp.arange(block_q), column + jnp.arange(block_k))
        visible.append(query >= key)
    if rules.key_ids is not None:
        query_ids = lax.dynamic_slice_in_dim(rules.query_ids[b], row, block_q)
        key_ids = lax.dynamic_slice_in_dim(rules.key_ids[b], column, block_k)
        query, key = across(query_ids, key_ids)
        visible.append(query == key)
    if rules.mask is not None:
        block = _pair_block(rules.mask, at, block_q, block_k)
        visible.append(block.T if transposed else block)
    for allowed in visible:
        s = jnp.where(allowed, s, MASKED)
    return s


def _pair_corner(x, at):
    """Where the block `at` starts in an array [B|1, N|1, T|1, S]."""
    return tuple(0 if size == 1 else start for size, start in zip(x.shape[:3], at)) + at[3:]


def _pair_block(x, at, block_q, block_k):
    """The block `at` of an array [B|1, N|1, T|1, S], as [block_q|1, block_k]."""
    rows = 1 if x.shape[2] == 1 else block_q
    return lax.dynamic_slice(x, _pair_corner(x, at), (1, 1, rows, block_k))[0, 0]


def _add_bias_block(grad_bias, grad_s, at):
    """Adds grad_s [keys, queries] to its block of the gradient of the bias, summed over what the bias repeats."""
    block = grad_s.T if grad_bias.shape[2] > 1 else grad_s.sum(1)[None]
    corner = _pair_corner(grad_bias, at)
    block = block + lax.dynamic_slice(grad_bias, corner, (1, 1, *block.shape))[0, 0]
    return lax.dynamic_update_slice(grad_bias, block[None, None], corner)


def _keep(rules, head, at, shape, rate, dtype):
    """Dropout factors of one block: a function of the key, the head and the block, the same in both passes."""
    key = rules.dropout_key
    for number in (head, at[2], at[3]):
        key = jax.random.fold_in(key, number)
    return keep_scale(key, shape, rate, dtype)
