"""Block-sparse attention for the CPU: one head at a time, a loop over the blocks that each block of queries visits.

As in exact attention the backward pass works on transposed scores, where XLA's CPU matrix product is fast. Masks are
added to the scores: XLA's CPU code selects by booleans slowly.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from effjax.ops.blocks import add_columns, product, rows, rows_of, transposed
from effjax.ops.loops import dynamic_loop
from effjax.ops.masking import FLOOR, MASKED, PADDED
from effjax.ops.sparse_rules import Block, add_bias, bias_block, keep_factors, mask_ids


def forward(plan, options, q, k, v, rules):
    """Returns (out [B,T,N,H], logsumexp [B,N,T] float32, +1e30 where a query sees nothing); q is already scaled."""
    heads = q.shape[2]
    shared = heads // k.shape[2]
    batch, length, width = q.shape[0], q.shape[1], q.shape[3]
    q_heads, k_heads, v_heads = (_by_head(x) for x in (q, k, v))

    def one_head(group, at):
        row, slot = _row(group, at, heads)
        key_row = row // heads * k.shape[2] + row % heads // shared
        merged = None
        for part in group.parts:
            piece = _Piece(part, options, rules, row, slot, heads)
            found = _part_forward(piece, q_heads[row], k_heads[key_row], v_heads[key_row])
            merged = found if merged is None else merge(merged, found)
        out, lse = merged
        return out.astype(q.dtype), jnp.where(lse < FLOOR, -MASKED, lse)

    found = [
        lax.map(lambda at, group=group: one_head(group, at), jnp.arange(batch * group.heads.size))
        for group in plan.groups
    ]
    out, lse = (_join_groups(plan, [x[i] for x in found], batch, heads, fill) for i, fill in ((0, 0), (1, -MASKED)))
    return out.reshape(batch, heads, length, width).swapaxes(1, 2), lse.reshape(batch, heads, length)


def backward(plan, options, q, k, v, rules, out, lse, g):
    """Returns the gradients of (q, k, v, bias_arrays)."""
    batch, length, heads, width = q.shape
    keys, groups = k.shape[1:3]
    accumulator = jnp.promote_types(q.dtype, jnp.float32)
    delta = jnp.einsum("btnh,btnh->bnt", out, g, preferred_element_type=accumulator).reshape(batch * heads, length)
    lse = lse.reshape(batch * heads, length)
    q_heads, k_heads, v_heads, g_heads = (_by_head(x) for x in (q, k, v, g.astype(q.dtype)))

    def one_head(grad_bias, at, group):
        row, slot = _row(group, at, heads)
        key_row = row // heads * groups + row % heads // (heads // groups)
        grads = 0, 0, 0
        for part in group.parts:
            piece = _Piece(part, options, rules, row, slot, heads)
            arrays = (x[row] for x in (q_heads, g_heads, lse, delta)), (x[key_row] for x in (k_heads, v_heads))
            grad_bias, found = _part_backward(piece, *arrays[0], *arrays[1], grad_bias)
            grads = tuple(a + b for a, b in zip(grads, found))
        return grad_bias, grads

    grad_bias = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), rules.bias_arrays)
    found = []
    for group in plan.groups:
        steps = jnp.arange(batch * group.heads.size)
        grad_bias, grads = lax.scan(lambda c, at, group=group: one_head(c, at, group), grad_bias, steps)
        found.append(grads)
    grad_q, grad_k, grad_v = (_join_groups(plan, [x[i] for x in found], batch, heads, 0) for i in range(3))
    grad_q = grad_q.reshape(batch, heads, length, width).swapaxes(1, 2).astype(q.dtype)
    grad_k, grad_v = (
        x.reshape(batch, groups, -1, keys, width).sum(2).swapaxes(1, 2).astype(like.dtype)
        for x, like in ((grad_k, k), (grad_v, v))
    )
    return grad_q, grad_k, grad_v, jax.tree.map(lambda x, like: x.astype(like.dtype), grad_bias, rules.bias_arrays)


def merge(first, second):
    """Joins the outputs and log-sum-exps of attention to two disjoint sets of keys."""
    (out, lse), (other_out, other_lse) = first, second
    highest = jnp.maximum(lse, other_lse)
    a, b = jnp.exp(lse - highest), jnp.exp(other_lse - highest)
    total = a + b
    return out * (a / total)[..., None] + other_out * (b / total)[..., None], highest + jnp.log(total)


def _by_head(x):
    """[B, L, N, H] -> [B N, L, H]."""
    return x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3])


def _row(group, at, heads):
    """The row of [B N, ...] that step `at` of a loop over a group works on, and the slot of its head in the group."""
    size = group.heads.size
    return at // size * heads + jnp.asarray(group.heads)[at % size], at % size


def _join_groups(plan, found, batch, heads, fill):
    """What the groups found, [B n, ...] each, as [B, N, ...]; heads in no group get `fill`."""
    found = [x.reshape(batch, -1, *x.shape[1:]) for x in found]
    order = np.concatenate([group.heads for group in plan.groups])
    if order.size < heads:
        missing = np.setdiff1d(np.arange(heads), order)
        found.append(jnp.full((batch, missing.size, *found[0].shape[2:]), fill, found[0].dtype))
        order = np.concatenate([order, missing])
    whole = jnp.concatenate(found, 1) if len(found) > 1 else found[0]
    return whole if np.array_equal(order, np.arange(heads)) else whole[:, np.argsort(order)]


class _Piece:
    """One part of the pattern in one head of one example."""

    def __init__(self, part, options, rules, row, slot, heads):
        self.part, self.options, self.row, self.head = part, options, row, row % heads
        self.layout = jnp.asarray(part.layout_of)[slot]
        self.bias_arrays, self.seed = rules.bias_arrays, rules.seed
        self.ids = (None, None)
        if rules.query_ids is not None:
            example = row // heads
            ids = part.queries.arrange(rules.query_ids[example]), part.keys.arrange(rules.key_ids[example], PADDED)
            self.ids = ids

    def block(self, i, j):
        part, (query_ids, key_ids) = self.part, self.ids
        if query_ids is not None:
            query_ids, key_ids = rows(query_ids, i, part.queries.block), rows(key_ids, j, part.keys.block)
        query, key = jnp.asarray(part.queries.positions)[i], jnp.asarray(part.keys.positions)[j]
        return Block(query, key, query_ids, key_ids, self.head, self.row)

    def masks(self, dtype, *, transposed):
        masks = self.part.masks.swapaxes(1, 2) if transposed else self.part.masks
        return jnp.where(jnp.asarray(masks), jnp.asarray(0, dtype), MASKED)

    def visit_all(self, lists, i, visit, state):
        """state after visit(block, number of its mask or None, state) for all blocks that block i visits."""
        start, middle, end = (
            jnp.asarray(x)[self.layout, i] for x in (lists.start[:, :-1], lists.middle, lists.start[:, 1:])
        )
        index, mask = jnp.asarray(lists.index), jnp.asarray(lists.mask)
        unmasked, masked = (float(x[self.part.layout_of].mean()) for x in lists.counts)
        if unmasked:
            step = lambda e, state: visit(index[e], None, state)
            state = dynamic_loop(start, middle, step, state, mean_trips=unmasked)
        if masked:
            step = lambda e, state: visit(index[e], mask[e], state)
            state = dynamic_loop(middle, end, step, state, mean_trips=masked)
        return state


def _part_forward(piece, q, k, v):
    """Returns (out [T, H], logsumexp [T], MASKED where a query sees nothing) of one part."""
    part, options = piece.part, piece.options
    accumulator = jnp.promote_types(q.dtype, jnp.float32)
    block_q, block_k, width = part.queries.block, part.keys.block, q.shape[-1]
    q, k, v = part.queries.arrange(q), part.keys.arrange(k), part.keys.arrange(v)
    masks = piece.masks(accumulator, transposed=False)

    def one_query_block(i):
        q_block = rows(q, i, block_q)

        def visit(j, mask, state):
            highest, total, weighted = state
            s = product(q_block, rows(k, j, block_k).T, accumulator)
            block = piece.block(i, j)
            s = add_bias(options, piece.bias_arrays, s, block, transposed=False)
            s = mask_ids(s if mask is None else s + masks[mask], block, transposed=False)
            new = jnp.maximum(highest, s.max(-1))
            p = jnp.exp(s - new[:, None])
            shrink = jnp.exp(highest - new)
            total = total * shrink + p.sum(-1)
            if options.dropout_rate:
                p = p * keep_factors(options, piece.seed, block, accumulator, transposed=False)
            values = product(p.astype(v.dtype), rows(v, j, block_k), accumulator)
            return new, total, weighted * shrink[:, None] + values

        init = (
            jnp.full(block_q, FLOOR, accumulator),
            jnp.zeros(block_q, accumulator),
            jnp.zeros((block_q, width), accumulator),
        )
        highest, total, weighted = piece.visit_all(part.by_query, i, visit, init)
        empty = total == 0
        total = jnp.where(empty, 1, total)
        return weighted / total[:, None], jnp.where(empty, MASKED, highest + jnp.log(total))

    out, lse = lax.map(one_query_block, jnp.arange(part.queries.count))
    return part.queries.restore(out.reshape(-1, width)), part.queries.restore(lse.reshape(-1))


def _part_backward(piece, q, g, lse, delta, k, v, grad_bias):
    """Returns (gradient of the bias so far, gradients of (q, k, v) by one part)."""
    part, options = piece.part, piece.options
    accumulator = jnp.promote_types(q.dtype, jnp.float32)
    block_q, block_k, width = part.queries.block, part.keys.block, q.shape[-1]
    q, g, delta = (part.queries.arrange(x) for x in (q, g, delta))
    lse = part.queries.arrange(lse, -MASKED)  # exp(s - 1e30) = 0: slots without a query weigh nothing
    k, v = part.keys.arrange(k), part.keys.arrange(v)
    masks = piece.masks(accumulator, transposed=True)

    def one_key_block(carry, j):
        k_block, v_block = rows(k, j, block_k), rows(v, j, block_k)
        k_columns = transposed(k_block, accumulator)

        def visit(i, mask, state):
            grad_q, grad_bias, grad_k, grad_v = state
            q_block, g_block = rows(q, i, block_q), rows(g, i, block_q)
            s = product(k_block, q_block.T, accumulator)
            block = piece.block(i, j)
            s = add_bias(options, piece.bias_arrays, s, block, transposed=True)
            s = mask_ids(s if mask is None else s + masks[mask], block, transposed=True)
            p = jnp.exp(s - rows(lse, i, block_q))
            grad_p = product(v_block, g_block.T, accumulator)
            dropped = p
            if options.dropout_rate:
                keep = keep_factors(options, piece.seed, block, accumulator, transposed=True)
                dropped, grad_p = p * keep, grad_p * keep
            grad_s = p * (grad_p - rows(delta, i, block_q))
            if piece.bias_arrays:
                pull = jax.vjp(lambda *x: bias_block(options, x, block, transposed=True), *piece.bias_arrays)[1]
                grad_bias = tuple(a + b for a, b in zip(grad_bias, pull(grad_s)))
            grad_v += product(dropped.astype(g.dtype), g_block, accumulator)
            grad_s = grad_s.astype(q.dtype)
            grad_k += product(grad_s, q_block, accumulator)
            grad_q = add_columns(grad_q, i * block_q, product(k_columns, grad_s, accumulator))
            return grad_q, grad_bias, grad_k, grad_v

        zeros = jnp.zeros((block_k, width), accumulator)
        *carry, grad_k, grad_v = piece.visit_all(part.by_key, j, visit, (*carry, zeros, zeros))
        return tuple(carry), (grad_k, grad_v)

    init = jnp.zeros((width, q.shape[0]), accumulator), grad_bias
    (grad_q, grad_bias), grads = lax.scan(one_key_block, init, jnp.arange(part.keys.count))
    grad_k, grad_v = (part.keys.restore(x.reshape(-1, width)) for x in grads)
    return grad_bias, (part.queries.restore(rows_of(grad_q)), grad_k, grad_v)
