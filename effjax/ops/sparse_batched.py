"""Block-sparse attention for accelerators: all heads, examples and blocks of queries at once, a loop over their visits.

Step c of the loop brings every block of queries the c-th block of keys that it visits. Blocks are bucketed by how many
they visit, within a factor of two, so that a few that visit everything (global tokens) cost the others nothing.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from effjax.ops.masking import FLOOR, MASKED, PADDED
from effjax.ops.sparse_blocked import merge
from effjax.ops.sparse_rules import Block, add_bias, bias_block, keep_factors, mask_ids


class _Bucket(NamedTuple):
    """Blocks of one axis (`rows`) with the blocks of the other that they visit: arrays [steps, rows, heads]."""

    rows: np.ndarray
    index: np.ndarray
    mask: np.ndarray


def forward(plan, options, q, k, v, rules):
    """Returns (out [B,T,N,H], logsumexp [B,N,T] float32, +1e30 where a query sees nothing); q is already scaled."""
    accumulator = jnp.promote_types(q.dtype, jnp.float32)
    out = jnp.zeros(q.shape, accumulator)
    lse = jnp.full(q.shape[:3], MASKED, accumulator)
    for group in plan.groups:
        merged = None
        for part in group.parts:
            found = _Piece(group, part, options, rules, q, k, v).forward()
            merged = found if merged is None else merge(merged, found)
        out, lse = (_put(whole, group, x) for whole, x in zip((out, lse), merged))
    return out.astype(q.dtype), jnp.where(lse < FLOOR, -MASKED, lse).swapaxes(1, 2)


def backward(plan, options, q, k, v, rules, out, lse, g):
    """Returns the gradients of (q, k, v, bias_arrays)."""
    accumulator = jnp.promote_types(q.dtype, jnp.float32)
    delta = jnp.einsum("btnh,btnh->btn", out, g, preferred_element_type=accumulator)
    lse, g = lse.swapaxes(1, 2), g.astype(q.dtype)
    like_q = jnp.zeros(q.shape, accumulator)
    grad_q, grad_k, grad_v = like_q, *(jnp.zeros((*k.shape[:2], *q.shape[2:]), accumulator) for _ in "kv")
    grad_bias = tuple(jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)) for x in rules.bias_arrays)
    for group in plan.groups:
        for part in group.parts:
            piece = _Piece(group, part, options, rules, q, k, v)
            *grads, found = piece.backward(*(_take(x, group.heads) for x in (g, lse, delta)))
            grad_q, grad_k, grad_v = (_put(x, group, y, add=True) for x, y in zip((grad_q, grad_k, grad_v), grads))
            grad_bias = tuple(a + b for a, b in zip(grad_bias, found))
    batch, keys, groups, width = k.shape
    grad_k, grad_v = (x.reshape(batch, keys, groups, -1, width).sum(3).astype(k.dtype) for x in (grad_k, grad_v))
    grad_bias = tuple(x.astype(y.dtype) for x, y in zip(grad_bias, rules.bias_arrays))
    return grad_q.astype(q.dtype), grad_k, grad_v, grad_bias


def _take(x, heads):
    return x if np.array_equal(heads, np.arange(x.shape[2])) else x[:, :, heads]


def _put(whole, group, x, *, add=False):
    if x.shape == whole.shape:
        return whole + x if add else x
    return whole.at[:, :, group.heads].add(x) if add else whole.at[:, :, group.heads].set(x)


class _Piece:
    """One part of the pattern in the heads of a group; blocks are arrays [blocks, heads, B, positions, ...]."""

    def __init__(self, group, part, options, rules, q, k, v):
        self.part, self.options, self.rules, self.heads = part, options, rules, group.heads
        self.dtype, self.accumulator = q.dtype, jnp.promote_types(q.dtype, jnp.float32)
        self.batch, _, self.total_heads, self.width = q.shape
        shared = q.shape[2] // k.shape[2]
        self.q = self.cut(part.queries, _take(q, group.heads))
        self.k, self.v = (self.cut(part.keys, _take(x, group.heads // shared)) for x in (k, v))
        self.ids = None
        if rules.query_ids is not None:
            query_ids = self.cut(part.queries, rules.query_ids[:, :, None])
            self.ids = query_ids, self.cut(part.keys, rules.key_ids[:, :, None], PADDED)
        shape = (1, *part.masks.shape[1:])
        self.masks = np.concatenate([part.masks, np.ones(shape, bool), np.zeros(shape, bool)])

    def cut(self, axis, x, fill=0):
        """[B, L, n, ...] -> [blocks, n, B, positions of a block, ...]."""
        x = axis.arrange(jnp.moveaxis(x, 1, 0), fill)
        x = x.reshape(axis.count, axis.block, *x.shape[1:])
        return jnp.moveaxis(x, (1, 3), (3, 1))

    def join(self, axis, x):
        """The transpose of `cut`."""
        x = jnp.moveaxis(x, (3, 1), (1, 3))
        return jnp.moveaxis(axis.restore(x.reshape(-1, *x.shape[2:])), 0, 1)

    def take(self, blocks, index):
        """Blocks [rows, n, ...] by index [rows, n]."""
        heads = np.zeros(len(self.heads), int) if blocks.shape[1] == 1 else np.arange(len(self.heads))
        return blocks[index, heads]

    def each(self, f):
        """f of one block of one head of one example, for all."""
        return jax.vmap(jax.vmap(jax.vmap(f)))

    def places(self, i, j):
        """Where the blocks (i, j) stand, `Block`s [rows, n, B]."""
        shape = (*i.shape, self.batch)

        def spread(x):
            return jnp.broadcast_to(x[:, :, None], (*shape, *x.shape[2:]))

        query, key = jnp.asarray(self.part.queries.positions)[i], jnp.asarray(self.part.keys.positions)[j]
        ids = (None, None) if self.ids is None else (self.take(self.ids[0], i), self.take(self.ids[1], j))
        head = jnp.broadcast_to(jnp.asarray(self.heads)[:, None], shape)
        return Block(spread(query), spread(key), *ids, head, jnp.arange(self.batch) * self.total_heads + head)

    def logits(self, q, k, place, mask):
        options, arrays = self.options, self.rules.bias_arrays
        s = jnp.einsum("rnbqh,rnbkh->rnbqk", q, k, preferred_element_type=self.accumulator)
        s = self.each(lambda s, place: add_bias(options, arrays, s, place, transposed=False))(s, place)
        s = jnp.where(jnp.asarray(self.masks)[mask][:, :, None], s, MASKED)
        return self.each(lambda s, place: mask_ids(s, place, transposed=False))(s, place)

    def keep(self, place):
        """Dropout factors, or 1."""
        if not self.options.dropout_rate:
            return 1
        factors = lambda x: keep_factors(self.options, self.rules.seed, x, self.accumulator, transposed=False)
        return self.each(factors)(place)

    def forward(self):
        """Returns (out [B,T,n,H], logsumexp [B,T,n], MASKED where a query sees nothing)."""
        part = self.part

        def of_bucket(bucket):
            q, (i, _) = self.q[bucket.rows], np.broadcast_arrays(bucket.rows[:, None], self.heads)

            def visit(state, at):
                highest, total, weighted = state
                j, mask = at
                place = self.places(i, j)
                s = self.logits(q, self.take(self.k, j), place, mask)
                new = jnp.maximum(highest, s.max(-1))
                p = jnp.exp(s - new[..., None])
                shrink = jnp.exp(highest - new)
                total = total * shrink + p.sum(-1)
                p = (p * self.keep(place)).astype(self.dtype)
                v = self.take(self.v, j)
                values = jnp.einsum("rnbqk,rnbkh->rnbqh", p, v, preferred_element_type=self.accumulator)
                return (new, total, weighted * shrink[..., None] + values), None

            shape, dtype = q.shape[:-1], self.accumulator
            init = jnp.full(shape, FLOOR, dtype), jnp.zeros(shape, dtype), jnp.zeros((*shape, self.width), dtype)
            (highest, total, weighted), _ = lax.scan(visit, init, (bucket.index, bucket.mask))
            empty = total == 0
            total = jnp.where(empty, 1, total)
            return weighted / total[..., None], jnp.where(empty, MASKED, highest + jnp.log(total))

        found = _over_buckets(of_bucket, _buckets(part.by_query, part, len(part.masks)))
        return tuple(self.join(part.queries, x) for x in found)

    def backward(self, g, lse, delta):
        """Returns the gradients of (q [B,T,n,H], k and v [B,S,n,H], bias_arrays); g, lse, delta are [B,T,n,...]."""
        part, accumulator = self.part, self.accumulator
        g, delta = self.cut(part.queries, g), self.cut(part.queries, delta)
        lse = self.cut(part.queries, lse, -MASKED)  # exp(s - 1e30) = 0: slots without a query weigh nothing

        def weights(q, k, v, g, lse, delta, place, mask):
            """Weights as the values saw them, and the gradient of the logits."""
            p = jnp.exp(self.logits(q, k, place, mask) - lse[..., None])
            grad_p = jnp.einsum("rnbqh,rnbkh->rnbqk", g, v, preferred_element_type=accumulator)
            keep = self.keep(place)
            return p * keep, p * (grad_p * keep - delta[..., None])

        def of_queries(bucket):
            mine = [x[bucket.rows] for x in (g, lse, delta)]
            q, (i, _) = self.q[bucket.rows], np.broadcast_arrays(bucket.rows[:, None], self.heads)

            def visit(grad_q, at):
                j, mask = at
                k, v = self.take(self.k, j), self.take(self.v, j)
                grad_s = weights(q, k, v, *mine, self.places(i, j), mask)[1].astype(self.dtype)
                return grad_q + jnp.einsum("rnbqk,rnbkh->rnbqh", grad_s, k, preferred_element_type=accumulator), None

            zeros = jnp.zeros(q.shape, accumulator)
            return (lax.scan(visit, zeros, (bucket.index, bucket.mask))[0],)

        def of_keys(bucket, grad_bias):
            k, v = self.k[bucket.rows], self.v[bucket.rows]
            j, _ = np.broadcast_arrays(bucket.rows[:, None], self.heads)

            def visit(state, at):
                grad_k, grad_v, grad_bias = state
                i, mask = at
                place = self.places(i, j)
                q, g_rows, *rest = (self.take(x, i) for x in (self.q, g, lse, delta))
                p, grad_s = weights(q, k, v, g_rows, *rest, place, mask)
                if grad_bias:
                    spread = lambda *x: self.each(lambda at: bias_block(self.options, x, at, transposed=False))(place)
                    pull = jax.vjp(spread, *self.rules.bias_arrays)[1]
                    grad_bias = tuple(a + b for a, b in zip(grad_bias, pull(grad_s)))
                sums = (
                    jnp.einsum("rnbqk,rnbqh->rnbkh", x.astype(self.dtype), y, preferred_element_type=accumulator)
                    for x, y in ((grad_s, q), (p, g_rows))
                )
                return (*(a + b for a, b in zip((grad_k, grad_v), sums)), grad_bias), None

            zeros = jnp.zeros(k.shape, accumulator)
            state, _ = lax.scan(visit, (zeros, zeros, grad_bias), (bucket.index, bucket.mask))
            return state

        (grad_q,) = _over_buckets(of_queries, _buckets(part.by_query, part, len(part.masks)))
        grad_bias = tuple(jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)) for x in self.rules.bias_arrays)
        buckets = _buckets(part.by_key, part, len(part.masks))
        found = []
        for bucket in buckets:
            *grads, grad_bias = of_keys(bucket, grad_bias)
            found.append(grads)
        grad_k, grad_v = _join_buckets(found, buckets)
        keys = part.keys
        return self.join(part.queries, grad_q), self.join(keys, grad_k), self.join(keys, grad_v), grad_bias


def _buckets(lists, part, full):
    """The lists of all heads as tables, for blocks that visit about equally many; mask `full` hides nothing, the one
    after it everything."""
    start, middle = lists.start[part.layout_of], lists.middle[part.layout_of]
    counts = start[:, 1:] - start[:, :-1]
    most = counts.max(0)
    size = np.ceil(np.log2(np.maximum(most, 1))).astype(int)
    buckets = []
    for kind in np.unique(size):
        rows = np.flatnonzero(size == kind)
        step = np.arange(most[rows].max())[:, None, None]
        entry = start[:, rows].T + step
        there = step < counts[:, rows].T
        at = np.where(there, entry, 0)
        mask = np.where(entry >= middle[:, rows].T, lists.mask[at], full)
        buckets.append(_Bucket(rows, np.where(there, lists.index[at], 0), np.where(there, mask, full + 1)))
    return buckets


def _over_buckets(f, buckets):
    """What f returns for every bucket, as tuples of arrays with blocks in order."""
    return _join_buckets([f(bucket) for bucket in buckets], buckets)


def _join_buckets(found: list[Any], buckets):
    order = np.argsort(np.concatenate([bucket.rows for bucket in buckets]))
    if len(buckets) == 1:
        return tuple(found[0])
    return tuple(jnp.concatenate(x)[order] for x in zip(*found))
