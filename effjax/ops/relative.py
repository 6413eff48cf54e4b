"""Attention with relative positions: a logit depends on content and on how far back the key stands.

No array is queries x keys: the position part of a block of logits is a product with the embeddings of the distances
that occur in the block, a band, which is then skewed from the axis of distances to the axis of keys.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from effjax.ops import relative_batched, relative_blocked
from effjax.ops.arguments import check_dropout, check_implementation, segments_of_keys
from effjax.ops.masking import FLOOR, MASKED, pair_ids
from effjax.ops.platforms import by_platform

_FORMS = {"blocked": relative_blocked, "batched": relative_batched}


@dataclass(frozen=True)
class Reach:
    """The distances that occur, from query to key, and what they weigh."""

    length: int
    keys: int
    offset: int  # the first query stands at the position of this key
    nearest: int  # least distance seen
    farthest: int  # greatest distance seen, no further than there are keys
    ramp: float  # of a span
    dropout_rate: float

    def sees(self, distance):
        """Whether a key at this distance is seen at all."""
        return (distance >= self.nearest) & (distance <= self.farthest)

    def rise(self, distance, span):
        """What a key at this distance weighs under a span, before it is cut to [0, 1]."""
        return (self.ramp + span - (distance - self.nearest)) / self.ramp


class Rules(NamedTuple):
    """What else decides: ids [B, T] and [B, S] that have to agree (None: no rule), and the key of the dropout."""

    query_ids: Int[Array, "B T"] | None
    key_ids: Int[Array, "B S"] | None
    dropout_key: Key[Array, ""] | None


def relative_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    *,
    rel: Float[Array, "W #N H"],
    content_bias: Float[Array, "N H"] | None = None,
    position_bias: Float[Array, "N H"] | None = None,
    rel_start: int = 0,
    min_distance: int | None = 0,
    window: int | None = None,
    span: Float[Array, "#B #T N"] | None = None,
    ramp: float = 32.0,
    query_offset: int | None = None,
    padding_mask: Bool[Array, "B S"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    key_segment_ids: Int[Array, "B S"] | None = None,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
    implementation: str | None = None,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B T N"]]:
    """Attends with logits that know the distance x = i - j from query i back to key j, min_distance <= x <= window.

        s_ij = scale ((q_i + content_bias) . k_j + (q_i + position_bias) . rel_x),    a_ij ~ m(x) exp(s_ij)
        m(x) = clip((ramp + span - (x - min_distance)) / ramp, 0, 1), or 1 without a span

    Keys outside the interval are not visited: memory is linear in T + S, FLOPs in T times the distances seen.

    Args:
      q: queries; the first one stands at the position of key `query_offset`.
      k: keys.
      v: values.
      rel: embeddings of the distances rel_start, rel_start + 1, …, for each head or one for all; a distance beyond
        either end takes that end's embedding.
      content_bias: u, added to the queries that meet keys; None: 0.
      position_bias: w, added to the queries that meet distances; None: 0.
      rel_start: distance that the first row of rel stands for; negative where later keys are seen.
      min_distance: least distance seen. 0: causal; 1: a query is not its own key; None: the whole future too.
      window: greatest distance seen; None: the whole past.
      span: z, how many distances have the full weight, beside the nearest one; differentiable. None: all.
      ramp: R, distances over which the weight falls to 0 beyond the span.
      query_offset: S - T if None: the keys end with the queries' own.
      padding_mask: True at keys that are there.
      segment_ids: document of each query; a query sees only its own.
      key_segment_ids: document of each key; segment_ids if None.
      scale: 1 / sqrt(H) if None.
      dropout_rate: probability that a weight is dropped.
      dropout_key: key of the dropout; masks differ between implementations.
      implementation: "blocked" (CPU), "batched" (accelerators; splits over batch, heads and length), or None for the
        best of the platform being compiled for.

    Returns:
      The mixed values, in the dtype of q, 0 for a query that sees nothing; and the logarithm of the sum over the keys
      of m exp(s), float32 and differentiable, by which this attention can be merged with another one.

    Raises:
      ValueError: lengths or options out of range or that exclude each other.

    Source: Dai et al. 2019 (arXiv 1901.02860), section 3.3 and appendix B; Sukhbaatar et al. 2019 (arXiv 1905.07799),
      section 3, for the span.
    """
    (batch, length, heads, width), keys = q.shape, k.shape[1]
    offset = keys - length if query_offset is None else query_offset
    if window is not None and window < max(0, min_distance or 0):
        raise ValueError(
            f"window is {window} and min_distance {min_distance}: it must be at least that, and at least 0"
        )
    if span is not None and (min_distance is None or min_distance < 0):
        raise ValueError(f"min_distance is {min_distance}: a span needs it to be at least 0")
    if ramp <= 0:
        raise ValueError(f"ramp is {ramp}: it must be above 0")
    key_segment_ids = segments_of_keys(segment_ids, key_segment_ids, length, keys)
    check_dropout(dropout_rate, dropout_key)
    check_implementation(implementation, tuple(_FORMS))

    nearest = min(offset - (keys - 1), 0)
    if min_distance is not None:
        nearest = max(nearest, min_distance)
    farthest = max(offset + length - 1 if window is None else min(window, offset + length - 1), nearest)
    if span is not None:
        span = jnp.broadcast_to(span, (batch, length, heads)).astype(jnp.promote_types(q.dtype, jnp.float32))
    reach = Reach(length, keys, offset, nearest, farthest, ramp, dropout_rate)

    scale = width**-0.5 if scale is None else scale
    contents = _biased(q, content_bias, scale)
    places = contents if position_bias is content_bias else _biased(q, position_bias, scale)
    rules = Rules(*pair_ids(padding_mask, segment_ids, key_segment_ids, length), dropout_key if dropout_rate else None)
    table = _table(jnp.broadcast_to(rel, (rel.shape[0], heads, width)).astype(q.dtype), rel_start, reach)
    return _attend(reach, implementation, contents, places, k, v, table, span, rules)


def rel_shift(x: Float[Array, "*batch T W"], width: int) -> Float[Array, "*batch T {width}"]:
    """Moves row i of T rows to the left by T - 1 - i: y_ij = x_{i, j + T - 1 - i}, 0 where x has no such column.

    It turns scores by distance, in decreasing order, into scores by key: over T + M distances of T queries with M keys
    of memory, or over the distances T - 1 … 1 - T of T queries that see the future too.

    Args:
      x: scores by distance.
      width: columns of the result, that is keys.

    Returns:
      Scores by key.

    Source: Dai et al. 2019 (arXiv 1901.02860), appendix B.
    """
    rows, columns = x.shape[-2:]
    x = x[..., : rows + width]
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, rows + width - min(columns, rows + width))])
    return relative_batched.skew(x)


def _biased(q, bias, scale):
    wide = q.astype(jnp.promote_types(q.dtype, jnp.float32))
    return ((wide if bias is None else wide + bias) * scale).astype(q.dtype)


def _table(rel, start, reach):
    """Embeddings [farthest - nearest + 1, N, H] of the distances seen, in decreasing order."""
    last = start + rel.shape[0] - 1

    def repeat(row, count):
        return jnp.broadcast_to(row, (max(count, 0), *rel.shape[1:]))

    beyond = repeat(rel[-1], reach.farthest - max(last, reach.nearest - 1))
    inside = rel[max(reach.nearest - start, 0) : max(reach.farthest - start + 1, 0)][::-1]
    before = repeat(rel[0], min(start, reach.farthest + 1) - reach.nearest)
    return jnp.concatenate([beyond, inside, before])


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(reach, implementation, *arrays):
    return _forward(reach, implementation, *arrays)[0]


def _forward(reach, implementation, *arrays):
    out, lse = _per_platform("forward", reach, implementation, *arrays)
    lse = jnp.where(lse < -FLOOR, lse, MASKED)  # the sum over no key
    return (out, lse), (arrays, out, lse)


def _backward(reach, implementation, residuals, cotangents):
    arrays, out, lse = residuals
    g, g_lse = cotangents
    # d lse / d s = a and d out / d s = a (v - out): both come in through one number a query.
    delta = jnp.einsum("btnh,btnh->btn", out, g, preferred_element_type=lse.dtype) - g_lse
    lse = jnp.where(lse > FLOOR, lse, -MASKED)  # exp(s - 1e30) = 0: a query that sees nothing weighs nothing
    return *_per_platform("backward", reach, implementation, *arrays, lse, delta, g), None


_attend.defvjp(_forward, _backward)


def _per_platform(direction, reach, implementation, *arrays):
    """Runs one direction in the named form, or in the best one for the platform that the program is lowered for."""
    forms = {name: partial(getattr(form, direction), reach) for name, form in _FORMS.items()}
    if implementation is not None:
        return forms[implementation](*arrays)
    return by_platform(*arrays, cpu=forms["blocked"], default=forms["batched"])
