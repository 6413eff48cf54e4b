"""Block-sparse attention for the CPU: one head at a time, and for each block of queries the blocks that it visits.

Where these are a narrow band, they are multiplied at once; where it is one block, as in residue classes, many blocks of
queries are, in one batch; else a loop runs over them with an online softmax.

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

BATCH_PAIRS = 2**18  # of blocks that are multiplied in one batch: their scores stay in the cache of a core


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
            queries = _Blocks(part.queries, q_heads, row)
            found = _part_forward(piece, queries, *(_Blocks(part.keys, x, key_row) for x in (k_heads, v_heads)))
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
    lse = lse.reshape(batch * heads, length)
    q_heads, k_heads, v_heads, g_heads, out_heads = (_by_head(x) for x in (q, k, v, g.astype(q.dtype), out))
    delta = jnp.einsum("rth,rth->rt", out_heads, g_heads, preferred_element_type=accumulator)

    def one_head(grad_bias, at, group):
        row, slot = _row(group, at, heads)
        key_row = row // heads * groups + row % heads // (heads // groups)
        grads = 0, 0, 0
        for part in group.parts:
            piece = _Piece(part, options, rules, row, slot, heads)
            # exp(s - 1e30) = 0: slots without a query weigh nothing
            of_queries = ((q_heads, 0), (g_heads, 0), (lse, -MASKED), (delta, 0))
            of_queries = (_Blocks(part.queries, x, row, fill) for x, fill in of_queries)
            of_keys = (_Blocks(part.keys, x, key_row) for x in (k_heads, v_heads))
            grad_bias, found = _part_backward(piece, *of_queries, *of_keys, grad_bias)
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

    def block(self, i, queries, j, keys):
        """Where the scores of `queries` blocks from i on and `keys` blocks from j on stand."""
        part, (query_ids, key_ids) = self.part, self.ids
        cut_queries = lambda x: rows(x, i, part.queries.block, queries)
        cut_keys = lambda x: rows(x, j, part.keys.block, keys)
        query, key = (jnp.asarray(axis.positions.ravel()) for axis in (part.queries, part.keys))
        if query_ids is not None:
            query_ids, key_ids = cut_queries(query_ids), cut_keys(key_ids)
        return Block(cut_queries(query), cut_keys(key), query_ids, key_ids, self.head, self.row)


class _Blocks:
    """The blocks of one row of x, [rows, L, ...], in the order of an axis.

    In the natural order they are cut from the array of all rows: a row by itself would be a copy.
    """

    def __init__(self, axis, x, row, fill=0):
        self.size, self.count = axis.block, axis.count
        if axis.natural:
            self.slots, self.first = x.reshape(-1, *x.shape[2:]), row * axis.count
        else:
            self.slots, self.first = axis.arrange(x[row], fill), 0

    def cut(self, i, count=1):
        """`count` blocks from block i on, one after the other."""
        return rows(self.slots, self.first + i, self.size, count)

    def stacked(self):
        """All of them: [count, size, ...]."""
        return self.cut(0, self.count).reshape(self.count, self.size, *self.slots.shape[1:])


class _Visits:
    """What each block of one axis visits: a band of blocks at once, or single ones in a loop."""

    def __init__(self, piece, lists, band, masks, dtype):
        self.lists, self.band, self.layout, self.layout_of = lists, band, piece.layout, piece.part.layout_of
        self.width = 1 if band is None else band.width  # blocks of one visit
        self.own = band is not None and band.own and piece.part.queries.count == piece.part.keys.count
        self.masks = jnp.where(jnp.asarray(masks if band is None else band.masks), jnp.asarray(0, dtype), MASKED)

    def mask(self, i):
        """The mask of the band of block i."""
        return self.masks[0 if len(self.masks) == 1 else jnp.asarray(self.band.mask)[self.layout, i]]

    def all(self, i, visit, state):
        """state after visit(first block, mask to be added or None, state) for all that block i visits."""
        if self.band is not None:
            return visit(jnp.asarray(self.band.start)[self.layout, i], self.mask(i), state)
        lists = self.lists
        start, middle, end = (
            jnp.asarray(x)[self.layout, i] for x in (lists.start[:, :-1], lists.middle, lists.start[:, 1:])
        )
        index, mask = jnp.asarray(lists.index), jnp.asarray(lists.mask)
        unmasked, masked = (float(x[self.layout_of].mean()) for x in lists.counts)
        if unmasked:
            step = lambda e, state: visit(index[e], None, state)
            state = dynamic_loop(start, middle, step, state, mean_trips=unmasked)
        if masked:
            step = lambda e, state: visit(index[e], self.masks[mask[e]], state)
            state = dynamic_loop(middle, end, step, state, mean_trips=masked)
        return state


def _part_forward(piece, q, k, v):
    """Returns (out [T, H], logsumexp [T], MASKED where a query sees nothing) of one part; q, k and v are `_Blocks`."""
    part, width = piece.part, q.slots.shape[-1]
    accumulator = jnp.promote_types(q.slots.dtype, jnp.float32)
    visits = _Visits(piece, part.by_query, part.query_band, part.masks, accumulator)
    init = (
        jnp.full(q.size, FLOOR, accumulator),
        jnp.zeros(q.size, accumulator),
        jnp.zeros((q.size, width), accumulator),
    )

    def one_query_block(i):
        q_block = q.cut(i)

        def visit(j, mask, state):
            k_blocks, v_blocks = (x.cut(j, visits.width) for x in (k, v))
            return _attend_block(piece, state, q_block, k_blocks, v_blocks, mask, piece.block(i, 1, j, visits.width))

        return _end(visits.all(i, visit, init))

    def own_block(at):
        i, *arrays = at
        return _end(_attend_block(piece, init, *arrays, visits.mask(i), piece.block(i, 1, i, 1)))

    if visits.own:
        out, lse = _at_once(own_block, q, k, v)
    else:
        out, lse = lax.map(one_query_block, jnp.arange(q.count))
    return part.queries.restore(out.reshape(-1, width)), part.queries.restore(lse.reshape(-1))


def _attend_block(piece, state, q, k, v, mask, block):
    """The online softmax, (highest, total, weighted), of a block of queries after more keys."""
    highest, total, weighted = state
    options, accumulator = piece.options, total.dtype
    s = product(q, k.T, accumulator)
    s = add_bias(options, piece.bias_arrays, s, block, transposed=False)
    s = mask_ids(s if mask is None else s + mask, block, transposed=False)
    new = jnp.maximum(highest, s.max(-1))
    p = jnp.exp(s - new[:, None])
    shrink = jnp.exp(highest - new)
    total = total * shrink + p.sum(-1)
    if options.dropout_rate:
        p = p * keep_factors(options, piece.seed, block, accumulator, transposed=False)
    return new, total, weighted * shrink[:, None] + product(p.astype(v.dtype), v, accumulator)


def _end(state):
    highest, total, weighted = state
    empty = total == 0
    total = jnp.where(empty, 1, total)
    return weighted / total[:, None], jnp.where(empty, MASKED, highest + jnp.log(total))


def _part_backward(piece, q, g, lse, delta, k, v, grad_bias):
    """Returns (gradient of the bias so far, gradients of (q, k, v) by one part), of `_Blocks`."""
    part, width, dtype = piece.part, q.slots.shape[-1], q.slots.dtype
    accumulator = jnp.promote_types(dtype, jnp.float32)
    visits = _Visits(piece, part.by_key, part.key_band, part.masks.swapaxes(1, 2), accumulator)

    def one_key_block(carry, j):
        k_block, v_block = k.cut(j), v.cut(j)
        k_columns = transposed(k_block, accumulator)

        def visit(i, mask, state):
            grad_q, grad_bias, grad_k, grad_v = state
            of_queries = (x.cut(i, visits.width) for x in (q, g, lse, delta))
            block = piece.block(i, visits.width, j, 1)
            grad_s, more_k, more_v = _pull_block(piece, *of_queries, k_block, v_block, mask, block)
            if piece.bias_arrays:
                of_bias = lambda *x: bias_block(piece.options, x, block, transposed=True)
                grad_bias = tuple(a + b for a, b in zip(grad_bias, jax.vjp(of_bias, *piece.bias_arrays)[1](grad_s)))
            grad_q = add_columns(grad_q, i * q.size, product(k_columns, grad_s.astype(dtype), accumulator))
            return grad_q, grad_bias, grad_k + more_k, grad_v + more_v

        zeros = jnp.zeros((k.size, width), accumulator)
        *carry, grad_k, grad_v = visits.all(j, visit, (*carry, zeros, zeros))
        return tuple(carry), (grad_k, grad_v)

    def own_block(at):
        i, *arrays, k_block, v_block = at
        grad_s, *grads = _pull_block(piece, *arrays, k_block, v_block, visits.mask(i), piece.block(i, 1, i, 1))
        return product(grad_s.astype(dtype).T, k_block, accumulator), *grads

    if visits.own and not piece.bias_arrays:
        grad_q, *grads = _at_once(own_block, q, g, lse, delta, k, v)
        grad_q = grad_q.reshape(-1, width)
    else:
        init = jnp.zeros((width, q.count * q.size), accumulator), grad_bias
        (grad_q, grad_bias), grads = lax.scan(one_key_block, init, jnp.arange(k.count))
        grad_q = rows_of(grad_q)
    grad_k, grad_v = (part.keys.restore(x.reshape(-1, width)) for x in grads)
    return grad_bias, (part.queries.restore(grad_q), grad_k, grad_v)


def _pull_block(piece, q, g, lse, delta, k, v, mask, block):
    """The gradients of the scores of a block, [S, T], and by them of k and v."""
    options, accumulator = piece.options, jnp.promote_types(q.dtype, jnp.float32)
    s = product(k, q.T, accumulator)
    s = add_bias(options, piece.bias_arrays, s, block, transposed=True)
    s = mask_ids(s if mask is None else s + mask, block, transposed=True)
    p = jnp.exp(s - lse)
    grad_p = product(v, g.T, accumulator)
    dropped = p
    if options.dropout_rate:
        keep = keep_factors(options, piece.seed, block, accumulator, transposed=True)
        dropped, grad_p = p * keep, grad_p * keep
    grad_v = product(dropped.astype(g.dtype), g, accumulator)
    grad_s = p * (grad_p - delta)
    return grad_s, product(grad_s.astype(q.dtype), q, accumulator), grad_v


def _at_once(own_block, *arrays):
    """own_block((i, *(block i of each of arrays))) of as many blocks at once as the cache of a core holds.

    The first of them are queries, the last ones keys.
    """
    count, pairs = arrays[0].count, arrays[0].size * arrays[-1].size
    blocks = (jnp.arange(count), *(x.stacked() for x in arrays))
    # Barriers: XLA would fold the order of positions into the products, which takes them twice the time.
    blocks = lax.optimization_barrier(blocks)
    found = lax.map(own_block, blocks, batch_size=min(count, max(1, BATCH_PAIRS // pairs)))
    return lax.optimization_barrier(found)
