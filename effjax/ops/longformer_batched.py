"""Windows and global tokens for accelerators: batch, chunks and heads are plain axes of every product, to be sharded.

A chunk of queries meets its neighbours among the chunks of keys, a few at a time, so that memory is linear in the
length whatever the window; a neighbour is a shift along the axis of chunks.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from effjax.ops import local_batched
from effjax.ops.masking import FLOOR, MASKED, PADDED, end_softmax, keep_scale

WIDEST = 512  # positions of a chunk
TOGETHER = 1024  # keys that a chunk meets at a time, or as many as its neighbour has

shift = partial(local_batched.shift, circular=False)


def forward(band, q, k, v, tokens, rules):
    """Returns (out [B,T,N,H], logsumexp [B,T,N] float32); q is already scaled."""
    chunks = _Chunks(band, q, rules)
    q_chunks, highest, total, weighted = chunks.split(q), FLOOR, 0.0, 0.0
    for part in chunks.parts(k, v, tokens):
        s = jnp.where(part.visible, chunks.product("bcqnh,bcknh->bncqk", q_chunks, part.keys), MASKED)
        new = jnp.maximum(highest, s.max(-1))
        p, shrink = jnp.exp(s - new[..., None]), jnp.exp(highest - new)
        total = total * shrink + p.sum(-1)
        p = p if part.keep is None else p * part.keep
        values = chunks.product("bncqk,bcknh->bncqh", p.astype(v.dtype), part.values)
        highest, weighted = new, weighted * shrink[..., None] + values
    out, lse = end_softmax(highest, total, weighted)
    return chunks.join(jnp.einsum("bncqh->bcqnh", out)).astype(q.dtype), chunks.join(jnp.einsum("bncq->bcqn", lse))


def backward(band, q, k, v, tokens, rules, out, lse, g):
    """Returns the gradients of (q, k, v, tokens)."""
    chunks = _Chunks(band, q, rules)
    delta = jnp.einsum("btnh,btnh->btn", out, g, preferred_element_type=chunks.accumulator)
    q_chunks, g_chunks = chunks.split(q), chunks.split(g.astype(q.dtype))
    # exp(s - 1e30) = 0: queries that are only padding weigh nothing.
    lse, delta = (jnp.einsum("bcqn->bncq", chunks.split(x, fill)) for x, fill in ((lse, -MASKED), (delta, 0)))
    grad_q, grad_keys, grad_values = 0.0, [], []
    for part in chunks.parts(k, v, tokens):
        s = jnp.where(part.visible, chunks.product("bcqnh,bcknh->bncqk", q_chunks, part.keys), MASKED)
        p = jnp.exp(s - lse[..., None])
        grad_p = chunks.product("bcqnh,bcknh->bncqk", g_chunks, part.values)
        dropped = p
        if part.keep is not None:
            dropped, grad_p = p * part.keep, grad_p * part.keep
        grad_s = (p * (grad_p - delta[..., None])).astype(q.dtype)
        grad_q += chunks.product("bncqk,bcknh->bcqnh", grad_s, part.keys)
        grad_keys.append(chunks.product("bncqk,bcqnh->bcknh", grad_s, q_chunks))
        grad_values.append(chunks.product("bncqk,bcqnh->bcknh", dropped.astype(q.dtype), g_chunks))
    (grad_k, grad_tokens_k), (grad_v, grad_tokens_v) = (chunks.collect(x) for x in (grad_keys, grad_values))
    grad_k, grad_v = grad_k.astype(k.dtype), grad_v.astype(v.dtype)
    return (
        chunks.join(grad_q).astype(q.dtype),
        grad_k,
        grad_v,
        (
            grad_tokens_k.astype(k.dtype),
            grad_tokens_v.astype(v.dtype),
        ),
    )


class _Part(NamedTuple):
    """Keys that every chunk of queries meets at a time."""

    keys: Any  # [B, chunks, K, N, H]
    values: Any
    visible: Any  # [B, 1, chunks, queries, K]
    keep: Any  # [queries, K], dropout factors, or None


class _Chunks:
    """How positions are cut into chunks, and which keys each of them meets."""

    def __init__(self, band, q, rules):
        self.band, self.rules = band, rules
        self.batch, self.length, _, _ = q.shape
        self.accumulator = jnp.promote_types(q.dtype, jnp.float32)
        reach = max(band.before, band.after)
        # A quarter of the window is little work beyond its edges; 128 positions make products worth their overhead.
        self.chunk = min(max(-(-reach // 4), min(reach, 128), 16), WIDEST, self.length)
        self.count = -(-self.length // self.chunk)
        offsets = range(-band.before // self.chunk, -(-band.after // self.chunk) + 1)
        offsets = [n for n in offsets if abs(n) < self.count]
        together = max(TOGETHER // self.chunk, 1)
        self.groups = [offsets[i : i + together] for i in range(0, len(offsets), together)]

    def parts(self, k, v, tokens) -> Iterator[_Part]:
        """What chunks meet: some of their neighbours at a time, the global tokens with the first of them."""
        k, v, query_ids = self.split(k), self.split(v), self.split(self.rules.query_ids)
        key_ids = self.split(self.rules.key_ids, PADDED)
        for i, offsets in enumerate(self.groups):
            near = lambda x, fill=0, offsets=offsets: [shift(x, n, fill=fill) for n in offsets]
            keys, values, ids = near(k), near(v), near(key_ids, PADDED)
            ahead = jnp.concatenate([n * self.chunk + jnp.arange(self.chunk) for n in offsets])
            ahead = ahead - jnp.arange(self.chunk)[:, None]
            seen = (ahead >= -self.band.before) & (ahead <= self.band.after)
            visible = seen & (query_ids[..., None] == jnp.concatenate(ids, 2)[:, :, None])
            if i == 0:
                keys, values = (
                    [*rows, self._everywhere(token)] for rows, token in ((keys, tokens.k), (values, tokens.v))
                )
                visible = jnp.concatenate([visible, self._sees_tokens(query_ids)], -1)
            keys = jnp.concatenate(keys, 2)
            yield _Part(keys, jnp.concatenate(values, 2), visible[:, None], self._keep(i, keys.shape[2]))

    def collect(self, grads):
        """Gradients [B, chunks, K, N, H] of the keys of every part, as those of the keys and of the tokens."""
        total = 0.0
        for offsets, grad in zip(self.groups, grads):
            for i, offset in enumerate(offsets):
                total += shift(grad[:, :, i * self.chunk : (i + 1) * self.chunk], -offset)
        return self.join(total), grads[0][:, :, len(self.groups[0]) * self.chunk :].sum(1)

    def split(self, x, fill=0):
        """[B, T, ...] -> [B, chunks, chunk, ...]."""
        padding = ((0, 0), (0, self.count * self.chunk - self.length), *[(0, 0)] * (x.ndim - 2))
        x = jnp.pad(x, padding, constant_values=fill)
        return x.reshape(self.batch, self.count, self.chunk, *x.shape[2:])

    def join(self, x):
        """The inverse of `split`."""
        return x.reshape(self.batch, self.count * self.chunk, *x.shape[3:])[:, : self.length]

    def product(self, equation, a, b):
        return jnp.einsum(equation, a, b, preferred_element_type=self.accumulator)

    def _everywhere(self, token):
        """[B, G, N, H] -> [B, chunks, G, N, H]."""
        return jnp.broadcast_to(token[:, None], (self.batch, self.count, *token.shape[1:]))

    def _sees_tokens(self, query_ids):
        """Which global tokens each query sees, [B, chunks, queries, G]."""
        visible = query_ids[..., None] == self.rules.global_ids[:, None, None]
        if self.band.causal:
            visible &= self.split(self.rules.positions)[..., None] >= self.rules.global_positions[:, None, None]
        return visible

    def _keep(self, i, keys):
        if not self.band.dropout_rate:
            return None
        key = self.rules.dropout_key if i == 0 else jax.random.fold_in(self.rules.dropout_key, i)
        return keep_scale(key, (self.chunk, keys), self.band.dropout_rate, self.accumulator)
