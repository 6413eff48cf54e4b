"""Local attention for the CPU: a loop over pieces that stay in cache, one product a neighbour, batched over chunks.

As in exact attention the backward pass works on transposed scores, where XLA's CPU matrix product is fast.
"""

from functools import reduce

import jax
import jax.numpy as jnp
from jax import lax

from effjax.ops.masking import FLOOR, MASKED, PADDED, end_softmax

QUERIES_PER_PIECE = 1024


def forward(reach, q, k, v, rules):
    """Returns (out [B,T,N,H], logsumexp [B,N,T] float32); q is already scaled, T a whole number of chunks."""
    accumulator = jnp.promote_types(q.dtype, jnp.float32)
    pieces = _Pieces(reach, q)
    queries = pieces.queries(q), pieces.queries(pieces.ids(rules.query_ids))
    keys = pieces.keys(k), pieces.keys(v), pieces.keys(pieces.ids(rules.key_ids), PADDED)

    def one_piece(index):
        q_piece, query_ids = (pieces.cut(x, index) for x in queries)
        k_piece, v_piece, key_ids = (pieces.cut_keys(x, index) for x in keys)
        s = []
        for offset in reach.offsets:
            product = _batched("rcqh,rckh->rcqk", q_piece, pieces.neighbour(k_piece, offset), accumulator)
            s.append(reach.apply(product, offset, query_ids, pieces.neighbour(key_ids, offset)))
        highest = reduce(jnp.maximum, [x.max(-1) for x in s], FLOOR)
        total, weighted = 0, 0
        for i, offset in enumerate(reach.offsets):
            p = jnp.exp(s[i] - highest[..., None])
            total += p.sum(-1)
            if rules.keep is not None:
                p = p * rules.keep[i]
            weighted += _batched("rcqk,rckh->rcqh", p.astype(v.dtype), pieces.neighbour(v_piece, offset), accumulator)
        out, lse = end_softmax(highest, total, weighted)
        return out.astype(q.dtype), lse

    out, lse = lax.map(one_piece, jnp.arange(pieces.count))
    return pieces.join(out), pieces.join(lse).swapaxes(1, 2)


def backward(reach, q, k, v, rules, out, lse, g):
    """Returns the gradients of (q, k, v)."""
    accumulator = jnp.promote_types(q.dtype, jnp.float32)
    pieces = _Pieces(reach, q)
    delta = jnp.einsum("btnh,btnh->btn", out, g, preferred_element_type=accumulator)
    queries = (
        *(pieces.queries(x) for x in (q, g.astype(q.dtype), delta, pieces.ids(rules.query_ids))),
        pieces.queries(lse.swapaxes(1, 2), -MASKED),  # exp(s - 1e30) = 0: queries that are only padding weigh nothing
    )
    keys = pieces.keys(k), pieces.keys(v), pieces.keys(pieces.ids(rules.key_ids), PADDED)

    def one_piece(grads, index):
        q_piece, g_piece, delta_piece, query_ids, lse_piece = (pieces.cut(x, index) for x in queries)
        k_piece, v_piece, key_ids = (pieces.cut_keys(x, index) for x in keys)
        grad_q, grad_k, grad_v = 0, 0, 0
        for i, offset in enumerate(reach.offsets):
            k_near, v_near = pieces.neighbour(k_piece, offset), pieces.neighbour(v_piece, offset)
            s = _batched("rckh,rcqh->rckq", k_near, q_piece, accumulator)
            s = reach.apply(s, offset, query_ids, pieces.neighbour(key_ids, offset), transposed=True)
            p = jnp.exp(s - lse_piece[..., None, :])
            grad_p = _batched("rckh,rcqh->rckq", v_near, g_piece, accumulator)
            dropped = p
            if rules.keep is not None:
                keep = rules.keep[i].T
                dropped, grad_p = p * keep, grad_p * keep
            grad_s = (p * (grad_p - delta_piece[..., None, :])).astype(q.dtype)
            # Kept as [H, queries]: only the small operand is contracted over its rows.
            grad_q += _batched("rckh,rckq->rchq", k_near, grad_s, accumulator)
            grad_k += pieces.place(_batched("rckq,rcqh->rckh", grad_s, q_piece, accumulator), offset)
            grad_v += pieces.place(_batched("rckq,rcqh->rckh", dropped.astype(q.dtype), g_piece, accumulator), offset)
        grads = tuple(pieces.add_keys(whole, part, index) for whole, part in zip(grads, (grad_k, grad_v)))
        return grads, grad_q.swapaxes(-1, -2).astype(q.dtype)

    zeros = jnp.zeros(keys[0].shape, accumulator)
    (grad_k, grad_v), grad_q = lax.scan(one_piece, (zeros, zeros), jnp.arange(pieces.count))
    gather = jax.linear_transpose(pieces.keys, jax.ShapeDtypeStruct(k.shape, accumulator))
    return pieces.join(grad_q), gather(grad_k)[0].astype(k.dtype), gather(grad_v)[0].astype(v.dtype)


def _batched(equation, a, b, accumulator):
    return jnp.einsum(equation, a, b, preferred_element_type=accumulator)


class _Pieces:
    """How arrays [B, T, N, ...] are cut into pieces for the loop.

    A row is one head of one sequence, as [chunks, chunk, ...]. A piece is several whole rows, or part of one long row;
    its keys come with the neighbouring chunks on either side.
    """

    def __init__(self, reach, q):
        self.reach = reach
        self.batch, length, self.heads, _ = q.shape
        self.chunks = length // reach.chunk
        self.before, self.after = max(0, *(-o for o in reach.offsets)), max(0, *reach.offsets)
        self.size = -(-self.chunks // -(-length // QUERIES_PER_PIECE))  # chunks of a row in one piece
        self.per_row = -(-self.chunks // self.size)
        fitting = max(1, QUERIES_PER_PIECE // length)
        self.rows = max(r for r in range(1, fitting + 1) if self.batch * self.heads % r == 0)
        self.count = self.batch * self.heads // self.rows * self.per_row

    def ids(self, x):
        """[B, T] -> [B, T, N]."""
        return jnp.broadcast_to(x[:, :, None], (*x.shape, self.heads))

    def _by_row(self, x):
        x = x.swapaxes(1, 2)
        return x.reshape(-1, self.chunks, self.reach.chunk, *x.shape[3:])

    def _extend(self, x, before, after, fill):
        return jnp.pad(x, ((0, 0), (before, after), *[(0, 0)] * (x.ndim - 2)), constant_values=fill)

    def queries(self, x, fill=0):
        """[B, T, N, ...] -> [rows, whole pieces of chunks, chunk, ...]."""
        return self._extend(self._by_row(x), 0, self.per_row * self.size - self.chunks, fill)

    def keys(self, x, fill=0):
        """The same, with the chunks that the first and the last chunk look at on either side."""
        x, before, after = self._by_row(x), self.before, self.after
        if self.reach.circular:
            x = jnp.concatenate([x[:, self.chunks - before :], x, x[:, :after]], 1)
            before, after = 0, 0
        return self._extend(x, before, after + self.per_row * self.size - self.chunks, fill)

    def _corner(self, x, index):
        return (index // self.per_row * self.rows, index % self.per_row * self.size, *[0] * (x.ndim - 2))

    def cut(self, x, index):
        """The piece `index` of what `queries` returned."""
        return lax.dynamic_slice(x, self._corner(x, index), (self.rows, self.size, *x.shape[2:]))

    def cut_keys(self, x, index):
        """The piece `index` of what `keys` returned, with its neighbours."""
        size = self.before + self.size + self.after
        return lax.dynamic_slice(x, self._corner(x, index), (self.rows, size, *x.shape[2:]))

    def add_keys(self, x, piece, index):
        """Adds to a piece and its neighbours."""
        return lax.dynamic_update_slice(x, self.cut_keys(x, index) + piece, self._corner(x, index))

    def neighbour(self, piece, offset):
        """For every query chunk of a piece, the key chunk at `offset`."""
        return piece[:, self.before + offset : self.before + offset + self.size]

    def place(self, x, offset):
        """The transpose of `neighbour`."""
        return self._extend(x, self.before + offset, self.after - offset, 0)

    def join(self, pieces):
        """[pieces, rows, chunks, chunk, ...] -> [B, T, N, ...]."""
        x = pieces.reshape(self.batch, self.heads, -1, *pieces.shape[4:])
        return x[:, :, : self.chunks * self.reach.chunk].swapaxes(1, 2)
