"""LSH attention of one head, forward and backward, given the sorted order of every round of hashing.

Positions sorted by bucket are cut into chunks; a chunk attends to itself and to the one before. All rounds together are
one softmax over every meeting of a query with a key, so a running maximum m, sum l and weighted values o pass from
round to round, and only one round's scores exist at a time. The backward pass recomputes them, transposed because XLA's
CPU dots dislike the other way, and brings gradients home by the inverse permutation: gathers, no scatter.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int32

from effjax.ops.masking import FLOOR, MASKED

ABSENT = jnp.iinfo(jnp.int32).max  # the position of a key that is not there: later than every query


class Rules(NamedTuple):
    """What is known before any array is."""

    chunk_size: int
    causal: bool
    look_back: str
    scaling: str
    correct_duplicates: bool | str
    self_penalty: float


class Order(NamedTuple):
    """The rounds of a head in sorted order: E = L places, and before them, unless look_back is "none", a chunk more."""

    rows: Int32[Array, "R E"]  # the position that stands at each place
    inverse: Int32[Array, "R L"]  # the place of each position, not counting the chunk before
    key_position: Int32[Array, "R E"]  # as rows, but ABSENT where no query may see the key
    segment: Int32[Array, "R E"] | None
    bucket: Int32[Array, "R E"] | None  # where only equal buckets may meet


class Meetings(NamedTuple):
    """Where each position stands in every round: from this one counts how often two positions meet."""

    chunk: Int32[Array, "R L"]
    reached: Int32[Array, "R L"]  # 0 if chunk 0 sees the position over the seam, from the round before; -1 if not
    bucket: Int32[Array, "R L"] | None


class _Ids(NamedTuple):
    """What decides who meets whom, for the places of one round; counted: over all R rounds."""

    position: Array
    segment: Array | None
    bucket: Array | None
    counted: Meetings | None


def forward(qk, v, order, meetings, keep, rules):
    """Returns (o [L,H], m [L], l [L]), o being normalised; a row that meets nothing has o = 0 and l = 0."""
    accumulator = jnp.promote_types(qk.dtype, jnp.float32)
    unit = unit_keys(qk, rules.scaling)

    def one_round(state, at):
        query, keys = _meeting_places(at, meetings, rules)
        q = _own(_take(qk, at.rows), rules)
        highest, scored = FLOOR, []
        for k, key in zip(_seen(_take(unit, at.rows), rules), keys):
            s, weight = _scores(q, k, query, key, rules)
            scored.append((s, weight))
            highest = jnp.maximum(highest, s.max(-1))
        total, weighted = 0.0, 0.0
        for (s, weight), value, kept in zip(scored, _seen(_take(v, at.rows), rules), _halves(keep, rules)):
            p = jnp.exp(s - highest[..., None]) * weight
            total += p.sum(-1)
            weighted += _dot("uqk,ukh->uqh", (p * kept).astype(v.dtype), value, accumulator)
        return _merge(state, [_unsort(x, at.inverse) for x in (highest, total, weighted)]), None

    rows = jnp.zeros(qk.shape[0], accumulator)
    (highest, total, weighted), _ = lax.scan(one_round, (rows + FLOOR, rows, qk.astype(accumulator) * 0), order)
    return (weighted * _reciprocal(total)[:, None]).astype(v.dtype), highest, total


def backward(qk, v, order, meetings, keep, out, highest, total, g, rules):
    """Returns the gradients of qk and v, given g, that of o."""
    accumulator = jnp.promote_types(qk.dtype, jnp.float32)
    unit, normalise_back = jax.vjp(lambda x: unit_keys(x, rules.scaling), qk)
    # With P = w exp(s - m) / l, dividing g by l once per row saves a division of every score.
    g = g.astype(accumulator) * _reciprocal(total)[:, None]
    delta = (g * out).sum(-1)
    g = g.astype(v.dtype)

    def one_round(state, at):
        *sums, late = state
        query, keys = _meeting_places(at, meetings, rules)
        q, g_q, highest_q, delta_q = (_own(_take(x, at.rows), rules) for x in (qk, g, highest, delta))
        grad_q, grad_ks, grad_vs = 0.0, [], []
        seen = (_seen(_take(unit, at.rows), rules), _seen(_take(v, at.rows), rules), keys, _halves(keep, rules))
        for k, value, key, kept in zip(*seen):
            s, weight = _scores(q, k, query, key, rules, transposed=True)
            p = jnp.exp(s - highest_q[:, None, :]) * weight
            grad_vs.append(_dot("ukq,uqh->ukh", (p * kept.T).astype(v.dtype), g_q, accumulator))
            grad_s = p * (_dot("ukh,uqh->ukq", value, g_q, accumulator) * kept.T - delta_q[:, None, :])
            # The logit of a position on itself is a constant.
            grad_s = jnp.where(key.position[..., None] == query.position[:, None, :], 0, grad_s).astype(qk.dtype)
            grad_ks.append(_dot("ukq,uqh->ukh", grad_s, q, accumulator))
            grad_q += _dot("ukh,ukq->uhq", k, grad_s, accumulator).swapaxes(1, 2)
        (grad_k, late_k), (grad_v, late_v) = (_return_to_chunks(*x) for x in zip((grad_ks, grad_vs), late))
        sums = [x + _unsort(y, at.inverse) for x, y in zip(sums, (grad_q, grad_k, grad_v))]
        return (*sums, (late_k, late_v)), None

    zeros = qk.astype(accumulator) * 0
    late = zeros[: rules.chunk_size]
    (grad_q, grad_k, grad_v, late), _ = lax.scan(one_round, (zeros, zeros, zeros, (late, late)), order, reverse=True)
    if rules.look_back == "circular":  # chunk 0 of the first round saw the last chunk of the last round
        before = ((qk.shape[0] - rules.chunk_size, 0), (0, 0))
        grad_k, grad_v = (x + _take(jnp.pad(y, before), order.inverse[-1]) for x, y in zip((grad_k, grad_v), late))
    (grad_unit,) = normalise_back(grad_k.astype(unit.dtype))
    return (grad_q + grad_unit).astype(qk.dtype), grad_v.astype(v.dtype)


def _return_to_chunks(grads, late):
    """Adds to a chunk's gradient what the chunk after it sends back; also returns what the round before is owed."""
    *before, own = grads
    if not before:
        return own, late
    return own + jnp.concatenate([before[0][1:], late[None]]), before[0][0]


def _scores(q, k, query, key, rules, *, transposed=False):
    """The logit of every pair in a chunk, [C, q, k] or transposed, and the weight of the pair's meeting."""
    accumulator = jnp.promote_types(q.dtype, jnp.float32)
    s = _dot("ukh,uqh->ukq", k, q, accumulator) if transposed else _dot("uqh,ukh->uqk", q, k, accumulator)
    query = jax.tree.map(lambda x: x[..., None, :] if transposed else x[..., None], query)
    key = jax.tree.map(lambda x: x[..., None] if transposed else x[..., None, :], key)
    allowed = key.position <= query.position if rules.causal else key.position != ABSENT
    if key.segment is not None:
        allowed &= key.segment == query.segment
    if key.bucket is not None:
        allowed &= key.bucket == query.bucket
    s = jnp.where(key.position == query.position, -rules.self_penalty, s)
    weight = 1.0 if key.counted is None else _one_over_meetings(query.counted, key.counted, rules)
    return jnp.where(allowed, s, MASKED), weight


def _one_over_meetings(query, key, rules):
    """1 / N, where a query and a key meet N times in all rounds together."""
    total = 0
    for r in range(query.chunk.shape[0]):
        count = (query.chunk[r] == key.chunk[r]).astype(jnp.float32)
        if rules.look_back != "none":
            count += query.chunk[r] == key.chunk[r] + 1
            count += query.chunk[r] == key.reached[r]
        if key.bucket is not None:
            count *= query.bucket[r] == key.bucket[r]
        total += count
    return 1 / (total + 1e-9) if rules.correct_duplicates == "lucid" else 1 / jnp.maximum(total, 1)


def _meeting_places(at, meetings, rules):
    """The ids of one round's queries, and those of the keys in each chunk they see."""
    counted = jax.tree.map(lambda x: x.at[:, at.rows].get(mode="promise_in_bounds"), meetings)
    ids = _Ids(at.key_position, at.segment, at.bucket, counted)
    leaves, structure = jax.tree.flatten(ids)
    keys = [structure.unflatten(x) for x in zip(*(_seen(x, rules, axis=x.ndim - 1) for x in leaves))]
    return keys[-1]._replace(position=_own(at.rows, rules)), keys


def _seen(x, rules, axis=0):
    """Cuts the places of a round into what chunk u sees, for every u: [chunk u - 1,] chunk u."""
    places = x.shape[axis]
    if rules.look_back == "none":
        starts, length = [0], places
    else:
        starts, length = [0, rules.chunk_size], places - rules.chunk_size
    shape = (*x.shape[:axis], length // rules.chunk_size, rules.chunk_size, *x.shape[axis + 1 :])
    return [lax.slice_in_dim(x, start, start + length, axis=axis).reshape(shape) for start in starts]


def _own(x, rules):
    return _seen(x, rules)[-1]


def _halves(keep, rules):
    """Dropout factors [c, keys] for each chunk seen; ones cost nothing."""
    if keep is None:
        return [jnp.ones((1, 1), jnp.float32)] * (1 if rules.look_back == "none" else 2)
    return jnp.split(keep, keep.shape[1] // rules.chunk_size, axis=1)


def _merge(state, found):
    """One softmax from two parts, each a maximum m, a sum l and weighted values o."""
    highest = jnp.maximum(state[0], found[0])
    shrink = [jnp.exp(part[0] - highest) for part in (state, found)]
    total = sum(part[1] * x for part, x in zip((state, found), shrink))
    return highest, total, sum(part[2] * x[:, None] for part, x in zip((state, found), shrink))


def unit_keys(qk, scaling):
    """k = q / |q|, divided by sqrt(H) in "unit_keys_scaled"; the epsilon is trax's."""
    x = qk.astype(jnp.promote_types(qk.dtype, jnp.float32))
    scale = qk.shape[-1] ** (-1.0 if scaling == "unit_keys_scaled" else -0.5)
    return (x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * scale).astype(qk.dtype)


def _reciprocal(total):
    return jnp.where(total == 0, 0, 1 / jnp.where(total == 0, 1, total))


def _unsort(x, inverse):
    return _take(x.reshape(-1, *x.shape[2:]), inverse)


def _take(x, rows):
    return x.at[rows].get(mode="promise_in_bounds")


def _dot(equation, a, b, accumulator):
    return jnp.einsum(equation, a, b, preferred_element_type=accumulator)
