"""Relative attention for accelerators: batch, blocks of queries and heads are plain axes, so that each may be sharded.

A scan over blocks of keys that stand equally far back from their queries: every block of queries meets the same
distances in a step. A step holds one block of keys per block of queries, so memory is linear in length.
"""

import jax
import jax.numpy as jnp
from jax import lax

from effjax.ops.masking import FLOOR, MASKED, PADDED, end_softmax, keep_scale

BLOCK = 256  # queries, and keys, of a block
LONG_BLOCK = 4096  # keys of a block where there is but one block of queries
LARGEST_EXPONENT = 30  # weights of a span below exp(-30) = 1e-13 are below what float32 tells from 0


def forward(reach, contents, places, k, v, table, span, rules):
    """Returns (out [B,T,N,H], logsumexp [B,T,N], +1e30 where nothing is seen); queries are scaled already."""
    accumulator = jnp.promote_types(k.dtype, jnp.float32)
    steps = Steps(reach)
    contents, places = steps.queries(contents), steps.queries(places)
    k, v, table = steps.keys(k), steps.keys(v), steps.table(table)

    def visit(state, step):
        highest, total, weighted = state
        s = logits(contents, places, steps.near(k, step), steps.band(table, step))
        s, weight = steps.weigh(s, span, rules, step)
        new = jnp.maximum(highest, s.max(-1))
        p = jnp.exp(s - new[..., None])
        if weight is not None:
            p = p * jnp.clip(weight, 0, 1)
        shrink = jnp.exp(highest - new)
        total = total * shrink + p.sum(-1)
        if reach.dropout_rate:
            p = p * steps.keep(p, rules, step)
        values = jnp.einsum(
            "bcnqk,bcknh->bcnqh", p.astype(v.dtype), steps.near(v, step), preferred_element_type=accumulator
        )
        return (new, total, weighted * shrink[..., None] + values), None

    rows = (contents.shape[0], steps.blocks, contents.shape[3], steps.block)
    init = jnp.full(rows, FLOOR, accumulator), jnp.zeros(rows, accumulator)
    init = (*init, jnp.zeros((*rows, v.shape[-1]), accumulator))
    state, _ = lax.scan(visit, init, jnp.arange(steps.count))
    out, lse = end_softmax(*state)
    return steps.join(out.swapaxes(2, 3)).astype(v.dtype), steps.join(lse.swapaxes(2, 3))


def backward(reach, contents, places, k, v, table, span, rules, lse, delta, g):
    """Returns the gradients of (contents, places, k, v, table, span)."""
    accumulator = jnp.promote_types(k.dtype, jnp.float32)
    steps = Steps(reach)
    contents, places, g = steps.queries(contents), steps.queries(places), steps.queries(g.astype(k.dtype))
    lse, delta = (steps.queries(x, fill).swapaxes(2, 3) for x, fill in ((lse, -MASKED), (delta, 0)))
    near_k, near_v, bands = steps.keys(k), steps.keys(v), steps.table(table)

    def visit(grads, step):
        s, pull = jax.vjp(logits, contents, places, steps.near(near_k, step), steps.band(bands, step))
        s, weight = steps.weigh(s, span, rules, step, hide=False)
        e = jnp.exp(jnp.minimum(s - lse[..., None], LARGEST_EXPONENT))
        p = e if weight is None else e * jnp.clip(weight, 0, 1)
        grad_p = jnp.einsum("bcqnh,bcknh->bcnqk", g, steps.near(near_v, step), preferred_element_type=accumulator)
        dropped = p
        if reach.dropout_rate:
            keep = steps.keep(p, rules, step)
            dropped, grad_p = p * keep, grad_p * keep
        grad_p = grad_p - delta[..., None]
        grad_v = jnp.einsum("bcnqk,bcqnh->bcknh", dropped.astype(k.dtype), g, preferred_element_type=accumulator)
        grad_contents, grad_places, grad_k, grad_band = pull((p * grad_p).astype(s.dtype))
        own, place, keys, values, whole, grad_span = grads
        if weight is not None:
            grad_span += jnp.where((weight >= 0) & (weight <= 1), e * grad_p, 0).sum(-1) / reach.ramp
        return (
            own + grad_contents,
            place + grad_places,
            steps.add_near(keys, grad_k, step),
            steps.add_near(values, grad_v, step),
            steps.add_band(whole, grad_band, step),
            grad_span,
        ), None

    wide = [jnp.zeros(x.shape, accumulator) for x in (contents, places, near_k, near_v, bands)]
    init = (*wide, None if span is None else jnp.zeros(lse.shape, accumulator))
    grads, _ = lax.scan(visit, init, jnp.arange(steps.count))
    grad_contents, grad_places, grad_k, grad_v, grad_table, grad_span = grads
    return (
        steps.join(grad_contents).astype(k.dtype),
        steps.join(grad_places).astype(k.dtype),
        *(steps.unpad_keys(x).astype(k.dtype) for x in (grad_k, grad_v)),
        steps.unpad_table(grad_table).astype(k.dtype),
        None if span is None else steps.join(grad_span.swapaxes(2, 3)),
    )


def logits(contents, places, k, band):
    """[B, blocks, N, queries, keys], float32 at least."""
    accumulator = jnp.promote_types(k.dtype, jnp.float32)
    s = jnp.einsum("bcqnh,bcknh->bcnqk", contents, k, preferred_element_type=accumulator)
    return s + skew(jnp.einsum("bcqnh,lnh->bcnql", places, band, preferred_element_type=accumulator))


def skew(x):
    """[..., T, T + S] -> [..., T, S]: y_ij = x_{i, j + T - 1 - i}; rows read one element shorter than they are."""
    *batch, rows, columns = x.shape
    x = x.reshape(*batch, rows * columns)[..., rows - 1 : rows - 1 + rows * (columns - 1)]
    return x.reshape(*batch, rows, columns - 1)[..., : columns - rows]


class Steps:
    """How queries, keys and distances are cut.

    Block i holds `block` queries. At step r it meets the block of `size` keys that ends `(count - 1 - r) size` keys
    before the last one that any of its queries sees; key c of them stands `a - c` + a constant of the step before query
    a, so that a band of `block + size` distances serves all blocks.
    """

    def __init__(self, reach):
        self.reach = reach
        distances = reach.farthest - reach.nearest
        if reach.length <= BLOCK:
            self.block = reach.length
            self.size = min(self.block + distances, LONG_BLOCK)
        else:
            self.block = self.size = BLOCK
        self.blocks = -(-reach.length // self.block)
        self.count = -(-(self.block + distances) // self.size)
        self.first_key = reach.offset + self.block - reach.nearest - self.count * self.size
        self.most = reach.nearest - 1 + self.count * self.size  # the greatest distance of the table's layout

    def queries(self, x, fill=0):
        """[B, T, ...] -> [B, blocks, block, ...]."""
        tail = self.blocks * self.block - x.shape[1]
        x = jnp.pad(x, ((0, 0), (0, tail), *[(0, 0)] * (x.ndim - 2)), constant_values=fill)
        return x.reshape(x.shape[0], self.blocks, self.block, *x.shape[2:])

    def join(self, x):
        """The inverse of `queries`."""
        return x.reshape(x.shape[0], -1, *x.shape[3:])[:, : self.reach.length]

    @property
    def _key_margins(self):
        slots = (self.count + self.blocks - 1) * self.size
        return -self.first_key, slots + self.first_key - self.reach.keys

    def keys(self, x, fill=0):
        """[B, S, ...] -> [B, count + blocks - 1, size, ...]: block i meets entry i + r at step r."""
        x = lax.pad(x, jnp.asarray(fill, x.dtype), [(0, 0, 0), (*self._key_margins, 0), *[(0, 0, 0)] * (x.ndim - 2)])
        return x.reshape(x.shape[0], -1, self.size, *x.shape[2:])

    def unpad_keys(self, x):
        """The inverse of `keys`."""
        x = x.reshape(x.shape[0], -1, *x.shape[3:])
        before, after = self._key_margins
        return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (-before, -after, 0), *[(0, 0, 0)] * (x.ndim - 2)])

    def near(self, x, step):
        return lax.dynamic_slice_in_dim(x, step, self.blocks, 1)

    def add_near(self, x, part, step):
        return lax.dynamic_update_slice_in_dim(x, self.near(x, step) + part, step, 1)

    @property
    def _table_margins(self):
        return self.most - self.reach.farthest, self.block

    def table(self, x):
        return jnp.pad(x, (self._table_margins, (0, 0), (0, 0)))

    def unpad_table(self, x):
        before, after = self._table_margins
        return x[before : x.shape[0] - after]

    def band(self, table, step):
        return lax.dynamic_slice_in_dim(table, step * self.size, self.block + self.size)

    def add_band(self, table, part, step):
        return lax.dynamic_update_slice_in_dim(table, self.band(table, step) + part, step * self.size, 0)

    def weigh(self, s, span, rules, step, *, hide=True):
        """Logits, MASKED where the query may not see the key; and the rise of the span, or None.

        hide: mask too what the span gives no weight, lest it sets the greatest logit.
        """
        reach = self.reach
        query = reach.offset + jnp.arange(self.blocks * self.block).reshape(self.blocks, self.block)
        key = self.first_key + (step + jnp.arange(self.blocks)[:, None]) * self.size + jnp.arange(self.size)
        distance = query[:, :, None] - key[:, None, :]
        visible = reach.sees(distance) & ((key >= 0) & (key < reach.keys))[:, None]
        visible = visible[None, :, None]
        if rules.key_ids is not None:
            query_ids = self.queries(rules.query_ids)
            key_ids = self.near(self.keys(rules.key_ids, PADDED), step)
            visible = visible & (query_ids[..., :, None] == key_ids[..., None, :])[:, :, None]
        weight = None
        if span is not None:
            span = self.queries(span).swapaxes(2, 3)[..., None]
            weight = reach.rise(distance[:, None], span)
            if hide:
                visible = visible & (weight > 0)
        return jnp.where(visible, s, MASKED), weight

    def keep(self, p, rules, step):
        """Dropout factors, the same in both passes."""
        return keep_scale(jax.random.fold_in(rules.dropout_key, step), p.shape, self.reach.dropout_rate, p.dtype)
