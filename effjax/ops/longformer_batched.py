"""Windows and global tokens for accelerators: batch, chunks and heads are plain axes of every product, to be sharded.

The chunks of queries meet the chunks of keys at one distance after the other, so that memory is linear in the length
whatever the window; a distance is a shift along the axis of chunks.
"""

from functools import partial

import jax.numpy as jnp

from effjax.ops import local_batched
from effjax.ops.masking import FLOOR, MASKED, PADDED, end_softmax, keep_scale

WIDEST = 512  # positions of a chunk

shift = partial(local_batched.shift, circular=False)


def forward(band, q, k, v, tokens, rules):
    """Returns (out [B,T,N,H], logsumexp [B,T,N] float32); q is already scaled."""
    chunks = _Chunks(band, q, rules)
    q_chunks, k_chunks, v_chunks = (chunks.split(x) for x in (q, k, v))

    def add(state, s, keep, mix):
        highest, total, weighted = state
        new = jnp.maximum(highest, s.max(-1))
        p, shrink = jnp.exp(s - new[..., None]), jnp.exp(highest - new)
        total = total * shrink + p.sum(-1)
        p = p if keep is None else p * keep
        return new, total, weighted * shrink[..., None] + mix(p.astype(v.dtype))

    state = (jnp.full(chunks.rows, FLOOR, chunks.accumulator), 0.0, jnp.zeros((*chunks.rows, 1), chunks.accumulator))
    for i, offset in enumerate(chunks.offsets):
        k_near, v_near = shift(k_chunks, offset), shift(v_chunks, offset)
        s = chunks.masked(chunks.product("bcqnh,bcknh->bncqk", q_chunks, k_near), offset)
        mix = lambda p, v_near=v_near: chunks.product("bncqk,bcknh->bncqh", p, v_near)
        state = add(state, s, chunks.keep[i], mix)
    if chunks.tokens:
        s = chunks.masked_global(chunks.product("bcqnh,bgnh->bncqg", q_chunks, tokens.k))
        state = add(state, s, chunks.keep_global, lambda p: chunks.product("bncqg,bgnh->bncqh", p, tokens.v))
    out, lse = end_softmax(*state)
    return chunks.join(jnp.einsum("bncqh->bcqnh", out)).astype(q.dtype), chunks.join(jnp.einsum("bncq->bcqn", lse))


def backward(band, q, k, v, tokens, rules, out, lse, g):
    """Returns the gradients of (q, k, v, tokens)."""
    chunks = _Chunks(band, q, rules)
    delta = jnp.einsum("btnh,btnh->btn", out, g, preferred_element_type=chunks.accumulator)
    q_chunks, k_chunks, v_chunks, g_chunks = (chunks.split(x) for x in (q, k, v, g.astype(q.dtype)))
    # exp(s - 1e30) = 0: queries that are only padding weigh nothing.
    lse, delta = (jnp.einsum("bcqn->bncq", chunks.split(x, fill)) for x, fill in ((lse, -MASKED), (delta, 0)))

    def weights(s, keep, grad_p):
        """The weights that values have, and the gradient of the logits."""
        p = jnp.exp(s - lse[..., None])
        dropped = p
        if keep is not None:
            dropped, grad_p = p * keep, grad_p * keep
        return dropped.astype(q.dtype), (p * (grad_p - delta[..., None])).astype(q.dtype)

    grad_q, grad_k, grad_v, token_grads = 0.0, 0.0, 0.0, (jnp.zeros_like(tokens.k), jnp.zeros_like(tokens.v))
    for i, offset in enumerate(chunks.offsets):
        k_near, v_near = shift(k_chunks, offset), shift(v_chunks, offset)
        s = chunks.masked(chunks.product("bcqnh,bcknh->bncqk", q_chunks, k_near), offset)
        grad_p = chunks.product("bcqnh,bcknh->bncqk", g_chunks, v_near)
        p, grad_s = weights(s, chunks.keep[i], grad_p)
        grad_q += chunks.product("bncqk,bcknh->bcqnh", grad_s, k_near)
        grad_k += shift(chunks.product("bncqk,bcqnh->bcknh", grad_s, q_chunks), -offset)
        grad_v += shift(chunks.product("bncqk,bcqnh->bcknh", p, g_chunks), -offset)
    if chunks.tokens:
        s = chunks.masked_global(chunks.product("bcqnh,bgnh->bncqg", q_chunks, tokens.k))
        p, grad_s = weights(s, chunks.keep_global, chunks.product("bcqnh,bgnh->bncqg", g_chunks, tokens.v))
        grad_q += chunks.product("bncqg,bgnh->bcqnh", grad_s, tokens.k)
        token_grads = (
            chunks.product("bncqg,bcqnh->bgnh", grad_s, q_chunks).astype(k.dtype),
            chunks.product("bncqg,bcqnh->bgnh", p, g_chunks).astype(v.dtype),
        )
    grads = (chunks.join(x).astype(y.dtype) for x, y in ((grad_q, q), (grad_k, k), (grad_v, v)))
    return *grads, token_grads


class _Chunks:
    """How positions are cut into chunks, and who sees whom between two chunks `offset` apart."""

    def __init__(self, band, q, rules):
        self.band, self.rules = band, rules
        batch, self.length, heads, _ = q.shape
        self.accumulator = jnp.promote_types(q.dtype, jnp.float32)
        self.tokens = rules.global_ids.shape[1]
        reach = max(band.before, band.after)
        # A quarter of the window is little work beyond its edges; 128 positions make products worth their overhead.
        self.chunk = min(max(-(-reach // 4), min(reach, 128), 16), WIDEST, self.length)
        self.rows = (batch, heads, -(-self.length // self.chunk), self.chunk)
        ways = range(-band.before // self.chunk, -(-band.after // self.chunk) + 1)
        self.offsets = [n for n in ways if abs(n) < self.rows[2]]
        self.query_ids, self.positions = self.split(rules.query_ids), self.split(rules.positions)
        self.key_ids = self.split(rules.key_ids, PADDED)
        self.keep, self.keep_global = [None] * len(self.offsets), None
        if band.dropout_rate:
            shape = (self.chunk, len(self.offsets) * self.chunk + self.tokens)
            keep = keep_scale(rules.dropout_key, shape, band.dropout_rate, self.accumulator)
            *self.keep, self.keep_global = jnp.split(keep, [self.chunk * (i + 1) for i in range(len(self.offsets))], axis=1)

    def split(self, x, fill=0):
        """[B, T, ...] -> [B, chunks, chunk, ...]."""
        padding = ((0, 0), (0, self.rows[2] * self.chunk - self.length), *[(0, 0)] * (x.ndim - 2))
        return jnp.pad(x, padding, constant_values=fill).reshape(x.shape[0], -1, self.chunk, *x.shape[2:])

    def join(self, x):
        """The inverse of `split`."""
        return x.reshape(x.shape[0], -1, *x.shape[3:])[:, : self.length]

    def product(self, equation, a, b):
        return jnp.einsum(equation, a, b, preferred_element_type=self.accumulator)

    def masked(self, s, offset):
        """Logits [B, N, chunks, queries, keys] of the key chunk at `offset`."""
        ahead = offset * self.chunk + jnp.arange(self.chunk) - jnp.arange(self.chunk)[:, None]
        visible = (ahead >= -self.band.before) & (ahead <= self.band.after)
        key_ids = shift(self.key_ids, offset, fill=PADDED)
        visible &= self.query_ids[..., :, None] == key_ids[..., None, :]
        return jnp.where(visible[:, None], s, MASKED)

    def masked_global(self, s):
        """Logits [B, N, chunks, queries, tokens]."""
        visible = self.query_ids[..., None] == self.rules.global_ids[:, None, None]
        if self.band.causal:
            visible &= self.positions[..., None] >= self.rules.global_positions[:, None, None]
        return jnp.where(visible[:, None], s, MASKED)
