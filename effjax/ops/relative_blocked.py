"""Relative attention for the CPU: one head at a time, blocks that stay in cache, blocks out of reach never visited.

Blocks of keys are aligned to the block of queries that meets them, not to a grid: then every block of queries meets the
same bands of distances, and no more than a triangle at either end is lost. Rows can be skewed cheaply, columns cannot,
so unlike exact attention the backward pass keeps queries in rows and the gradients of keys, values and distances in
columns: again no product contracts an operand over its rows.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from effjax.ops.blocks import add_columns, product, rows_of, transposed
from effjax.ops.loops import dynamic_loop
from effjax.ops.masking import FLOOR, MASKED, PADDED, end_softmax, keep_scale
from effjax.ops.relative_batched import LARGEST_EXPONENT, skew

QUERIES, KEYS = 128, 512  # of a block


def forward(reach, contents, places, k, v, table, span, rules):
    """Returns (out [B,T,N,H], logsumexp [B,T,N], +1e30 where nothing is seen); queries are scaled already."""
    accumulator = jnp.promote_types(k.dtype, jnp.float32)
    blocks = Blocks(reach, k, rules)
    batch, heads = k.shape[0], k.shape[2]
    contents, places, span = (blocks.queries(x) for x in (contents, places, span))
    keys, values, table = blocks.keys(k), blocks.keys(v), blocks.table(table)

    def one_head(head):
        q_head, place_head, k_head, v_head = contents[head], places[head], keys[head], values[head]
        table_head, span_head = table[head % heads], None if span is None else span[head]

        def one_query_block(i):
            q, place, z = (blocks.rows(x, i) for x in (q_head, place_head, span_head))

            def visit(r, state):
                highest, total, weighted = state
                k_block, v_block = blocks.near(k_head, i, r), blocks.near(v_head, i, r)
                s = blocks.logits(q, place, k_block, blocks.band(table_head, r))
                visible, weight = blocks.weigh(head // heads, i, r, z)
                s = jnp.where(visible if weight is None else visible & (weight > 0), s, MASKED)
                new = jnp.maximum(highest, s.max(-1))
                p = jnp.exp(s - new[:, None])
                if weight is not None:
                    p = p * jnp.clip(weight, 0, 1)
                shrink = jnp.exp(highest - new)
                total = total * shrink + p.sum(-1)
                if reach.dropout_rate:
                    p = p * blocks.keep(head, i, r, accumulator)
                return new, total, weighted * shrink[:, None] + product(p.astype(v.dtype), v_block, accumulator)

            init = jnp.full(blocks.block, FLOOR, accumulator), jnp.zeros(blocks.block, accumulator)
            init = (*init, jnp.zeros((blocks.block, v.shape[-1]), accumulator))
            out, lse = end_softmax(*blocks.over_keys(i, z, visit, init))
            return out.astype(v.dtype), lse

        return lax.map(one_query_block, jnp.arange(blocks.count))

    out, lse = lax.map(one_head, jnp.arange(batch * heads))
    return blocks.join(out), blocks.join(lse)


def backward(reach, contents, places, k, v, table, span, rules, lse, delta, g):
    """Returns the gradients of (contents, places, k, v, table, span)."""
    accumulator = jnp.promote_types(k.dtype, jnp.float32)
    blocks = Blocks(reach, k, rules)
    batch, heads, width = k.shape[0], *k.shape[2:]
    contents, places, span, g = (blocks.queries(x) for x in (contents, places, span, g.astype(k.dtype)))
    lse, delta = blocks.queries(lse, -MASKED), blocks.queries(delta)
    keys, values, table = blocks.keys(k), blocks.keys(v), blocks.table(table)

    def one_head(grad_table, head):
        k_head, v_head, table_head = keys[head], values[head], table[head % heads]
        rows = [None if x is None else x[head] for x in (contents, places, g, lse, delta, span)]

        def one_query_block(columns, i):
            q, place, g_block, lse_block, delta_block, z = (blocks.rows(x, i) for x in rows)
            q_columns, place_columns, g_columns = (transposed(x, accumulator) for x in (q, place, g_block))

            def visit(r, state):
                (grad_keys, grad_values, grad_bands), grad_q, grad_place, grad_z = state
                k_block, band = blocks.near(k_head, i, r), blocks.band(table_head, r)
                s = blocks.logits(q, place, k_block, band)
                visible, weight = blocks.weigh(head // heads, i, r, z)
                s = jnp.where(visible, s, MASKED) - lse_block[:, None]
                grad_p = product(g_block, blocks.near(v_head, i, r).T, accumulator)
                if weight is None:
                    p = jnp.exp(s)
                else:
                    e = jnp.exp(jnp.minimum(s, LARGEST_EXPONENT))
                    p = e * jnp.clip(weight, 0, 1)
                dropped = p
                if reach.dropout_rate:
                    keep = blocks.keep(head, i, r, accumulator)
                    dropped, grad_p = p * keep, grad_p * keep
                grad_p -= delta_block[:, None]
                if weight is not None:
                    grad_z += jnp.where((weight >= 0) & (weight <= 1), e * grad_p, 0).sum(-1) / reach.ramp
                grad_s = (p * grad_p).astype(k.dtype)
                spread = unskew(grad_s)
                start = blocks.start(i, r)
                grad_keys = add_columns(grad_keys, start, product(q_columns, grad_s, accumulator))
                grad_values = add_columns(grad_values, start, product(g_columns, dropped.astype(k.dtype), accumulator))
                grad_bands = add_columns(grad_bands, r * blocks.size, product(place_columns, spread, accumulator))
                grad_q += product(grad_s, k_block, accumulator)
                grad_place += product(spread, band, accumulator)
                return (grad_keys, grad_values, grad_bands), grad_q, grad_place, grad_z

            zeros = jnp.zeros((blocks.block, width), accumulator)
            init = (columns, zeros, zeros, None if z is None else zeros[:, 0])
            columns, *grads = blocks.over_keys(i, z, visit, init)
            return columns, tuple(grads)

        init = [jnp.zeros((width, x.shape[0]), accumulator) for x in (k_head, v_head, table_head)]
        columns, grads = lax.scan(one_query_block, tuple(init), jnp.arange(blocks.count))
        grad_keys, grad_values, grad_bands = (rows_of(x) for x in columns)
        return grad_table.at[head % heads].add(grad_bands), (*grads, grad_keys, grad_values)

    grad_table, grads = lax.scan(one_head, jnp.zeros(table.shape, accumulator), jnp.arange(batch * heads))
    grad_contents, grad_places, grad_span, grad_k, grad_v = grads
    return (
        *(blocks.join(x).astype(k.dtype) for x in (grad_contents, grad_places)),
        *(blocks.unpad_keys(x).astype(k.dtype) for x in (grad_k, grad_v)),
        blocks.unpad_table(grad_table).astype(k.dtype),
        None if span is None else blocks.join(grad_span),
    )


def unskew(x):
    """[T, S] -> [T, T + S], the transpose of `skew`."""
    rows, columns = x.shape
    x = jnp.pad(x, ((0, 0), (0, rows - 1))).reshape(-1)
    return jnp.pad(x, (rows - 1, 1)).reshape(rows, rows + columns)


class Blocks:
    """How queries, keys and distances are cut; sequences and heads are one axis.

    Query block i, of `block` queries, meets at step r the `size` keys from `start(i, r)` of the padded keys on. Key c
    of them stands `a - c` + a constant of the step before query a.
    """

    def __init__(self, reach, k, rules):
        self.reach, self.batch, self.heads, self.rules = reach, k.shape[0], k.shape[2], rules
        self.accumulator = jnp.promote_types(k.dtype, jnp.float32)
        count = -(-reach.length // QUERIES)
        self.block = reach.length if count == 1 else QUERIES
        self.count = count
        distances = self.block + reach.farthest - reach.nearest
        self.steps = -(-distances // KEYS)
        self.size = -(-distances // self.steps)
        if self.steps > 1:
            self.size += -self.size % 16
        first = reach.offset + self.block - reach.nearest - self.steps * self.size
        last = first + (count - 1) * self.block + self.steps * self.size
        self.before, self.after = max(-first, 0), max(last - reach.keys, 0)
        self.first = first  # the key with which the first step of the first block starts; below 0: padding
        self.most = reach.nearest - 1 + self.steps * self.size  # the greatest distance of the table's layout
        if rules.key_ids is not None:
            self.query_ids = jnp.pad(rules.query_ids, ((0, 0), (0, count * self.block - reach.length)))
            self.key_ids = self._pad_keys(rules.key_ids, PADDED)

    def queries(self, x, fill=0):
        """[B, T, N, ...] -> [B N, whole blocks, ...]."""
        if x is None:
            return None
        x = x.swapaxes(1, 2).reshape(-1, x.shape[1], *x.shape[3:])
        tail = ((0, 0), (0, self.count * self.block - x.shape[1]), *[(0, 0)] * (x.ndim - 2))
        return jnp.pad(x, tail, constant_values=fill)

    def join(self, x):
        """[B N, blocks, block, ...] -> [B, T, N, ...]."""
        x = x.reshape(self.batch, self.heads, -1, *x.shape[3:])
        return x[:, :, : self.reach.length].swapaxes(1, 2)

    def _pad_keys(self, x, fill=0):
        return jnp.pad(x, ((0, 0), (self.before, self.after), *[(0, 0)] * (x.ndim - 2)), constant_values=fill)

    def keys(self, x):
        """[B, S, N, H] -> [B N, padded, H]."""
        return self._pad_keys(x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3]))

    def unpad_keys(self, x):
        """The inverse of `keys`."""
        x = x[:, self.before : self.before + self.reach.keys]
        return x.reshape(self.batch, self.heads, *x.shape[1:]).swapaxes(1, 2)

    def table(self, x):
        """[distances, N, H] -> [N, distances of the layout, H]."""
        return jnp.pad(x.swapaxes(0, 1), ((0, 0), (self.most - self.reach.farthest, self.block), (0, 0)))

    def unpad_table(self, x):
        """The inverse of `table`."""
        return x[:, self.most - self.reach.farthest : x.shape[1] - self.block].swapaxes(0, 1)

    def rows(self, x, i):
        return None if x is None else lax.dynamic_slice_in_dim(x, i * self.block, self.block)

    def start(self, i, r):
        return self.first + self.before + i * self.block + r * self.size

    def near(self, x, i, r):
        return lax.dynamic_slice_in_dim(x, self.start(i, r), self.size)

    def band(self, table, r):
        return lax.dynamic_slice_in_dim(table, r * self.size, self.block + self.size)

    def logits(self, q, place, k, band):
        return product(q, k.T, self.accumulator) + skew(product(place, band.T, self.accumulator))

    def over_keys(self, i, span, visit, init):
        """Runs `visit` over the steps at which query block i meets a key that may weigh something."""
        low, high = self._steps(i, jnp)
        if span is not None:  # the step of the farthest key within the span and its ramp
            farthest = self.reach.nearest + span.max() + self.reach.ramp
            seen = jnp.ceil((self.reach.offset + 1 - self.first - farthest) / self.size).astype(jnp.int32) - 1
            low = jnp.maximum(low, seen)
        mean_trips = np.mean([max(high - low, 0) for low, high in (self._steps(i, np) for i in range(self.count))])
        return dynamic_loop(low, high, visit, init, mean_trips=float(mean_trips))

    def _steps(self, i, xp):
        """The steps [low, high) whose keys are there."""
        first = self.first + i * self.block
        low = xp.clip(-first // self.size, 0, self.steps)
        return low, xp.clip(-((first - self.reach.keys) // self.size), 0, self.steps)

    def weigh(self, b, i, r, span):
        """Which keys a query may see, [block, size], and the rise of the span, or None."""
        reach = self.reach
        start = self.first + i * self.block + r * self.size
        row, column = jnp.arange(self.block)[:, None], jnp.arange(self.size)[None, :]
        ahead = reach.offset + i * self.block + row - start  # the distance of the first key
        visible = column >= jnp.maximum(ahead - reach.farthest, -start)
        visible &= column <= jnp.minimum(ahead - reach.nearest, reach.keys - 1 - start)
        if self.rules.key_ids is not None:
            visible &= self.rows(self.query_ids[b], i)[:, None] == self.near(self.key_ids[b], i, r)[None, :]
        return visible, None if span is None else reach.rise(ahead - column, span[:, None])

    def keep(self, head, i, r, dtype):
        """Dropout factors of one block: a function of the key, the head and the block, the same in both passes."""
        key = self.rules.dropout_key
        for number in (head, i, r):
            key = jax.random.fold_in(key, number)
        return keep_scale(key, (self.block, self.size), self.reach.dropout_rate, dtype)
