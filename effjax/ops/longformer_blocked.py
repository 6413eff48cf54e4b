"""Windows and global tokens for the CPU: one head at a time, a block of queries against the slab of keys it may see.

The band lies the same way in every slab. The backward pass goes in the forward pass's order and keeps the gradients of
keys as columns [H, T], so that no product contracts an operand over its rows.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from effjax.ops.blocks import add_columns, product, rows_of, transposed
from effjax.ops.loops import dynamic_loop
from effjax.ops.masking import FLOOR, MASKED, PADDED, end_softmax, keep_scale

WIDEST = 1024  # keys of a slab that are looked at in one piece
FEW_POSITIONS = 256  # rows are taken together up to so many


def forward(band, q, k, v, tokens, rules):
    """Returns (out [B,T,N,H], logsumexp [B,T,N] float32); q is already scaled."""
    slabs = _Slabs(band, q, rules)
    accumulator = slabs.accumulator

    def one_row(row):
        def one_block(i):
            q_block = slabs.block_of(row.q, i)

            def add(s, keep, values, state):
                highest, total, weighted = state
                new = jnp.maximum(highest, s.max(-1))
                p, shrink = jnp.exp(s - new[:, None]), jnp.exp(highest - new)
                total = total * shrink + p.sum(-1)
                p = p if keep is None else p * keep
                return new, total, weighted * shrink[:, None] + product(p.astype(v.dtype), values, accumulator)

            def visit(j, state):
                k_piece, v_piece = slabs.piece_of(row.k, i, j), slabs.piece_of(row.v, i, j)
                s = slabs.masked(product(q_block, k_piece.T, accumulator), row, i, j)
                return add(s, slabs.keep_of(j), v_piece, state)

            state = (
                jnp.full(slabs.block, FLOOR, accumulator),
                jnp.zeros(slabs.block, accumulator),
                jnp.zeros((slabs.block, q.shape[-1]), accumulator),
            )
            if slabs.tokens:
                s = slabs.masked_global(product(q_block, row.k_global.T, accumulator), row, i)
                state = add(s, slabs.keep_global, row.v_global, state)
            out, lse = end_softmax(*slabs.visit_pieces(i, visit, state))
            return out.astype(q.dtype), lse

        out, lse = lax.map(one_block, jnp.arange(slabs.blocks))
        return out.reshape(row.q.shape), lse.reshape(-1)

    out, lse = slabs.map_rows(one_row, slabs.rows(q, k, v, tokens, rules))
    return slabs.join(out)[:, : slabs.length], slabs.join(lse)[:, : slabs.length]


def backward(band, q, k, v, tokens, rules, out, lse, g):
    """Returns the gradients of (q, k, v, tokens)."""
    slabs = _Slabs(band, q, rules)
    accumulator = slabs.accumulator
    delta = jnp.einsum("btnh,btnh->btn", out, g, preferred_element_type=accumulator)
    rows = slabs.rows(q, k, v, tokens, rules)
    # exp(s - 1e30) = 0: queries that are only padding weigh nothing.
    sides = slabs.queries(g.astype(q.dtype)), slabs.queries(delta), slabs.queries(lse, -MASKED)

    def one_row(xs):
        row, (g_row, delta_row, lse_row) = xs

        def one_block(grads, i):
            q_block, g_block, delta_block, lse_block = (
                slabs.block_of(x, i) for x in (row.q, g_row, delta_row, lse_row)
            )

            q_columns, g_columns = transposed(q_block, accumulator), transposed(g_block, accumulator)

            def gradients(s, keep, keys, values):
                """Of the queries, and of the keys and values as [H, keys]."""
                p = jnp.exp(s - lse_block[:, None])
                grad_p = product(g_block, values.T, accumulator)
                dropped = p
                if keep is not None:
                    dropped, grad_p = p * keep, grad_p * keep
                grad_s = (p * (grad_p - delta_block[:, None])).astype(q.dtype)
                return (
                    product(grad_s, keys, accumulator),
                    product(q_columns, grad_s, accumulator),
                    product(g_columns, dropped.astype(q.dtype), accumulator),
                )

            def visit(j, state):
                grad_q, (grad_k, grad_v) = state
                k_piece, v_piece = slabs.piece_of(row.k, i, j), slabs.piece_of(row.v, i, j)
                s = slabs.masked(product(q_block, k_piece.T, accumulator), row, i, j)
                more, *columns = gradients(s, slabs.keep_of(j), k_piece, v_piece)
                return grad_q + more, tuple(slabs.add_columns(x, y, i, j) for x, y in zip((grad_k, grad_v), columns))

            grads, token_grads = grads
            grad_q = jnp.zeros(q_block.shape, accumulator)
            if slabs.tokens:
                s = slabs.masked_global(product(q_block, row.k_global.T, accumulator), row, i)
                grad_q, *columns = gradients(s, slabs.keep_global, row.k_global, row.v_global)
                token_grads = tuple(x + y for x, y in zip(token_grads, columns))
            grad_q, grads = slabs.visit_pieces(i, visit, (grad_q, grads))
            return (grads, token_grads), grad_q.astype(q.dtype)

        zeros = lambda columns: (jnp.zeros((q.shape[-1], columns), accumulator),) * 2
        init = zeros(slabs.padded_keys), zeros(slabs.tokens)
        (grads, token_grads), grad_q = lax.scan(one_block, init, jnp.arange(slabs.blocks))
        return grad_q.reshape(row.q.shape), [rows_of(x).astype(k.dtype) for x in (*grads, *token_grads)]

    grads = jax.tree.map(slabs.join, slabs.map_rows(one_row, (rows, sides)))
    grad_q, (grad_k, grad_v, *token_grads) = grads
    mine = slice(band.before, band.before + slabs.length)
    return grad_q[:, : slabs.length], grad_k[:, mine], grad_v[:, mine], tuple(token_grads)


class _Row(NamedTuple):
    """One head of one example, or all of them along the first axis."""

    q: Any  # [blocks * block, H]
    k: Any  # [before + T + padding, H]
    v: Any
    k_global: Any  # [G, H]
    v_global: Any
    query_ids: Any  # as long as q
    positions: Any
    key_ids: Any  # as long as k
    global_ids: Any  # [G]
    global_positions: Any


class _Slabs:
    """How rows are cut: queries into blocks; the slab of keys that a block may see, if it is wide, into pieces.

    Column c of the slab of block i is the key at i * block + c - before.
    """

    def __init__(self, band, q, rules):
        self.band = band
        self.batch, self.length, self.heads, _ = q.shape
        self.accumulator = jnp.promote_types(q.dtype, jnp.float32)
        self.tokens = rules.global_ids.shape[1]
        self.block = _block(self.length, band.before + band.after)
        self.blocks = -(-self.length // self.block)
        span = self.block + band.before + band.after
        self.pieces = -(-span // (WIDEST if self.block < 256 else WIDEST // 2))
        self.piece = -(-span // self.pieces)
        self.padded_keys = (self.blocks - 1) * self.block + self.pieces * self.piece
        self.keep = self.keep_global = None
        if band.dropout_rate:
            shape = (self.block, self.pieces * self.piece + self.tokens)
            keep = keep_scale(rules.dropout_key, shape, band.dropout_rate, self.accumulator)
            self.keep, self.keep_global = keep[:, : shape[1] - self.tokens], keep[:, shape[1] - self.tokens :]

    def rows(self, q, k, v, tokens, rules) -> _Row:
        """Everything as [B * N, ...]."""
        ids = lambda x: jnp.broadcast_to(x[:, :, None], (*x.shape, self.heads))
        return _Row(
            self.queries(q),
            self._keys(k),
            self._keys(v),
            _by_row(tokens.k),
            _by_row(tokens.v),
            self.queries(ids(rules.query_ids)),
            self.queries(ids(rules.positions)),
            self._keys(ids(rules.key_ids), PADDED),
            _by_row(ids(rules.global_ids)),
            _by_row(ids(rules.global_positions)),
        )

    def queries(self, x, fill=0):
        """[B, T, N, ...] -> [B * N, whole blocks, ...]."""
        return _extend(_by_row(x), 0, self.blocks * self.block - self.length, fill)

    def _keys(self, x, fill=0):
        before = self.band.before
        return _extend(_by_row(x), before, self.padded_keys - self.length - before, fill)

    def map_rows(self, one_row, rows):
        """One row after the other; several at a time where they are short."""
        count = self.batch * self.heads
        together = max(n for n in range(1, max(FEW_POSITIONS // self.length, 1) + 1) if count % n == 0)
        grouped = jax.tree.map(lambda x: x.reshape(count // together, together, *x.shape[1:]), rows)
        mapped = lax.map(jax.vmap(one_row), grouped)
        return jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), mapped)

    def join(self, x):
        """[B * N, T, ...] -> [B, T, N, ...]."""
        return x.reshape(self.batch, self.heads, *x.shape[1:]).swapaxes(1, 2)

    def block_of(self, x, i):
        return lax.dynamic_slice_in_dim(x, i * self.block, self.block)

    def piece_of(self, x, i, j):
        return lax.dynamic_slice_in_dim(x, i * self.block + j * self.piece, self.piece)

    def keep_of(self, j):
        """Dropout factors of a piece: the same in every slab."""
        return None if self.keep is None else lax.dynamic_slice_in_dim(self.keep, j * self.piece, self.piece, 1)

    def add_columns(self, x, columns, i, j):
        """Adds to the columns of a piece."""
        return add_columns(x, i * self.block + j * self.piece, columns)

    def masked(self, s, row, i, j):
        ahead = j * self.piece + jnp.arange(self.piece)[None] - jnp.arange(self.block)[:, None]
        visible = (ahead >= 0) & (ahead <= self.band.before + self.band.after)
        visible &= self.block_of(row.query_ids, i)[:, None] == self.piece_of(row.key_ids, i, j)
        return jnp.where(visible, s, MASKED)

    def masked_global(self, s, row, i):
        visible = self.block_of(row.query_ids, i)[:, None] == row.global_ids
        if self.band.causal:
            visible &= self.block_of(row.positions, i)[:, None] >= row.global_positions
        return jnp.where(visible, s, MASKED)

    def visit_pieces(self, i, visit, state):
        """Looks at the pieces of a slab that hold any key."""
        if self.pieces == 1:
            return visit(0, state)
        trips = [self._end(n, np) - self._start(n, np) for n in range(self.blocks)]
        return dynamic_loop(self._start(i, jnp), self._end(i, jnp), visit, state, mean_trips=float(np.mean(trips)))

    def _start(self, i, xp):
        return xp.maximum(self.band.before - i * self.block, 0) // self.piece

    def _end(self, i, xp):
        return xp.minimum(-(-(self.length + self.band.before - i * self.block) // self.piece), self.pieces)


def _block(length, window):
    """Queries of a block: a quarter of the window is the least work with products that are still large."""
    target = 128 if window <= 512 else 256 if window <= 1024 else 512
    count = -(-length // target)
    return length if count == 1 else -(-length // (count * 16)) * 16


def _by_row(x):
    """[B, T, N, ...] -> [B * N, T, ...]."""
    x = x.swapaxes(1, 2)
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _extend(x, before, after, fill):
    return jnp.pad(x, ((0, 0), (before, after), *[(0, 0)] * (x.ndim - 2)), constant_values=fill)
