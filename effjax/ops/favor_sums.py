"""Linear attention of one head as sums over chunks: features exist for one chunk at a time, sums carry their scale.

Every key's features come with a logarithmic scale c_j, phi(k_j) = exp(c_j) u_j. Sums are kept relative to the greatest
scale so far, C, as an online softmax keeps its maximum; a row i reads with the greatest scale among the keys it sees,
so nothing that stands after it takes part in its value.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from effjax.ops.masking import FLOOR, MASKED

SMALLEST = (
    1e-18  # a sum of non-negative weights below it counts as nothing: its inverse square, in gradients, is finite
)
GUARD = 1e-6  # of a sum of weights that may be negative


class Sums(NamedTuple):
    """What one head knows of the keys that it has passed, divided by exp(scale)."""

    weighted: Any  # [H, F]: sum_j v_j phi(k_j)^T
    total: Any  # [F]: sum_j phi(k_j)
    scale: Any  # []
    document: Any  # [] int32, of the last key


class Rows(NamedTuple):
    """Sums of weights that rows read, divided by exp(scale)."""

    weighted: Any  # [T, H]
    total: Any  # [T]
    scale: Any  # [T]


@dataclass(frozen=True)
class Setting:
    """What does not change from chunk to chunk.

    Attributes:
      query_features, key_features: x [c, H] -> (u [c, F], c [c]).
      chunk_size: rows that are looked at together; divides the length.
      signed: whether weights may be negative.
      denominator_epsilon: added to every element of `Sums.total` as rows read it.
    """

    query_features: Callable
    key_features: Callable
    chunk_size: int
    signed: bool
    denominator_epsilon: float

    def divide(self, rows: Rows, dtype):
        """The mean value; 0 for a row that saw nothing."""
        total = rows.total
        if self.signed:
            total = jnp.where(jnp.abs(total) <= GUARD, total + 2 * GUARD, total)
            return (rows.weighted / total[..., None]).astype(dtype)
        nothing = total <= SMALLEST
        total = jnp.where(nothing, 1, total)
        return jnp.where(nothing[..., None], 0, rows.weighted / total[..., None]).astype(dtype)


def causal(setting: Setting, sums: Sums, q, k, v, query_documents, key_documents):
    """Each row reads the keys up to its own: (values [T, H], sums after the last key)."""

    def step(sums, chunk):
        rows, sums = _read_and_add(setting, sums, *chunk)
        return sums, setting.divide(rows, q.dtype)

    sums, out = lax.scan(jax.checkpoint(step), sums, _chunks(setting, q, k, v, query_documents, key_documents))
    return _join(out), sums


def both_sides(setting: Setting, sums: Sums, q, k, v, key_documents):
    """Each row reads all keys."""

    def add(sums, chunk):
        return _add(setting, sums, *chunk), None

    sums, _ = lax.scan(jax.checkpoint(add), sums, _chunks(setting, k, v, key_documents))

    def read(q):
        features, _ = setting.query_features(q)
        return setting.divide(_read(features, sums, 0.0, q.dtype), q.dtype)

    out = lax.map(jax.checkpoint(read), _chunks(setting, q)[0])
    return _join(out)


def both_sides_of_documents(setting: Setting, sums: Sums, q, k, v, query_documents, key_documents):
    """Each row reads all keys of its document: those up to its own from the left, the others from the right."""

    def pass_over(arrays, strict):
        def step(sums, chunk):
            rows, sums = _read_and_add(setting, sums, *chunk, strict=strict)
            return sums, rows

        _, rows = lax.scan(jax.checkpoint(step), sums, _chunks(setting, *arrays))
        return jax.tree.map(_join, rows)

    arrays = (q, k, v, query_documents, key_documents)
    left = pass_over(arrays, strict=False)
    right = jax.tree.map(lambda x: x[::-1], pass_over([x[::-1] for x in arrays], strict=True))
    scale = jnp.maximum(left.scale, right.scale)
    by_left, by_right = jnp.exp(left.scale - scale), jnp.exp(right.scale - scale)
    rows = Rows(
        left.weighted * by_left[:, None] + right.weighted * by_right[:, None],
        left.total * by_left + right.total * by_right,
        scale,
    )
    return setting.divide(rows, q.dtype)


def _read_and_add(setting, sums, q, k, v, query_documents, key_documents, *, strict=False):
    """Rows of one chunk, from the sums so far and from the chunk's own keys; and the sums with those keys."""
    features, _ = setting.query_features(q)
    key_features, key_scale = setting.key_features(k)
    wide = key_scale.dtype

    place = jnp.arange(q.shape[0])
    order = place[:, None] > place[None, :] if strict else place[:, None] >= place[None, :]
    visible = order & (query_documents[:, None] == key_documents[None, :])
    key_scales = jnp.where(visible, key_scale[None, :], MASKED)
    carried = jnp.where(query_documents == sums.document, sums.scale, MASKED)
    scale = jnp.maximum(jnp.maximum(key_scales.max(-1), carried), FLOOR)

    rows = _read(features, sums, carried - scale, v.dtype)
    s = jnp.einsum("qf,kf->qk", features.astype(v.dtype), key_features.astype(v.dtype), preferred_element_type=wide)
    s = s * jnp.exp(key_scales - scale[:, None])
    own = jnp.einsum("qk,kh->qh", s.astype(v.dtype), v, preferred_element_type=wide)
    total = rows.total + s.sum(-1)
    if setting.denominator_epsilon:
        total += setting.denominator_epsilon * features.sum(-1)
    rows = Rows(rows.weighted + own, total, scale)
    return rows, _add_features(sums, key_features, key_scale, v, key_documents, query_documents[-1])


def _read(features, sums, shift, dtype):
    """What rows read from sums, multiplied by exp(shift)."""
    factor = jnp.exp(shift)
    features = features.astype(dtype)
    weighted = jnp.einsum("qf,hf->qh", features, sums.weighted.astype(dtype), preferred_element_type=sums.total.dtype)
    total = jnp.einsum("qf,f->q", features, sums.total.astype(dtype), preferred_element_type=sums.total.dtype)
    return Rows(weighted * jnp.expand_dims(factor, -1), total * factor, shift)


def _add(setting, sums, k, v, key_documents):
    return _add_features(sums, *setting.key_features(k), v, key_documents, sums.document)


def _add_features(sums, features, key_scale, v, key_documents, document):
    """The sums with more keys, those of another document than `document` left out, old ones too."""
    key_scale = jnp.where(key_documents == document, key_scale, MASKED)
    carried = jnp.where(sums.document == document, sums.scale, MASKED)
    scale = jnp.maximum(jnp.maximum(key_scale.max(), carried), FLOOR)
    kept = jnp.exp(carried - scale)
    features = features * jnp.exp(key_scale - scale)[:, None]
    added = jnp.einsum("kh,kf->hf", v, features.astype(v.dtype), preferred_element_type=features.dtype)
    return Sums(sums.weighted * kept + added, sums.total * kept + features.sum(0), scale, document)


def _chunks(setting, *arrays):
    """[T, ...] -> [n, chunk_size, ...]."""
    return tuple(x.reshape(-1, setting.chunk_size, *x.shape[1:]) for x in arrays)


def _join(x):
    return x.reshape(-1, *x.shape[2:])
