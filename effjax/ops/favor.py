"""FAVOR+: softmax attention estimated by random features, linear in length, with sums for a state."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from effjax.ops import favor_sums
from effjax.ops.arguments import check_implementation
from effjax.ops.favor_features import (
    EXPONENTIAL,
    GENERALISED,
    KERNELS,
    count_features,
    default_epsilon,
    exponent_peak,
    favor_features,
)
from effjax.ops.favor_sums import Setting, Sums
from effjax.ops.full import FEW_QUERIES
from effjax.ops.heads import over_heads
from effjax.ops.masking import FLOOR, PADDED

STABILIZERS = ("running", "global")
IMPLEMENTATIONS = ("blocked", "batched")


class FavorState(NamedTuple):
    """Running sums over the keys of a stream, relative to exp(scale); float32, of one size however long the stream."""

    weighted: Float[Array, "B N H F"]  # sum_j v_j phi(k_j)^T
    total: Float[Array, "B N F"]  # sum_j phi(k_j)
    scale: Float[Array, "B N"]  # greatest log scale of a key
    segment: Int[Array, " B"]  # of the last key


def favor_state(
    batch_size: int, n_heads: int, head_dim: int, projection_rows: int, *, kernel: str = "softmax"
) -> FavorState:
    """The state before the first key: `projection_rows` is M, or H where there is no projection."""
    features = count_features(kernel, projection_rows)
    heads = (batch_size, n_heads)
    return FavorState(
        weighted=jnp.zeros((*heads, head_dim, features), jnp.float32),
        total=jnp.zeros((*heads, features), jnp.float32),
        scale=jnp.full(heads, FLOOR, jnp.float32),
        segment=jnp.zeros((batch_size,), jnp.int32),
    )


def favor_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N V"],
    *,
    projection: Float[Array, "M H"] | Float[Array, "N M H"] | None = None,
    kernel: str = "softmax",
    causal: bool = False,
    state: FavorState | None = None,
    padding_mask: Bool[Array, "B S"] | None = None,
    segment_ids: Int[Array, "B S"] | None = None,
    scale: float | None = None,
    epsilon: float | None = None,
    denominator_epsilon: float = 0.0,
    stabilizer: str = "running",
    chunk_size: int = 64,
    implementation: str | None = None,
) -> tuple[Float[Array, "B T N V"], FavorState | None]:
    """Attends through feature maps: weights phi(q_i) . phi(k_j) in place of exp(scale q_i . k_j).

        out_i = phi(q_i)^T S_i / phi(q_i)^T z_i,   S_i = sum_j phi(k_j) v_j^T,   z_i = sum_j phi(k_j)

    over j <= i where causal. Cost O(T M H); features, and causal sums, exist for one chunk at a time. Exponentials are
    taken relative to the greatest scale that a row may know of (see `effjax.ops.favor_sums`): the future changes no bit
    of the past, and no constant that cancels is left in the result.

    Args:
      q: queries.
      k: keys.
      v: values.
      projection: rows w_r of the features (see `favor_projection`), for all heads or for each; None, only with a
        generalised kernel, takes queries and keys themselves.
      kernel: "softmax" (positive features), "hyperbolic", "trigonometric" (weights may be negative), or a generalised
        kernel f(w . x): "relu", "elu" (+ 1), "abs", "sigmoid".
      causal: a query sees the keys up to its own position.
      state: sums over what came before, for causal streams; None starts afresh.
      padding_mask: True at keys that are there.
      segment_ids: document of each position; a query sees only its own. A document is one stretch: what bears the same
        number after another document is a new one. Padding inside it does not end it.
      scale: of the estimated logits; 1 / sqrt(H) if None. Queries and keys are each multiplied by its root.
      epsilon: added to every feature (see `favor_features`); None: 1e-6 for "softmax" and "hyperbolic", 0 for
        "trigonometric", 1e-3 for the others. It bounds weights from below, and the gradient with them; 0 is unbiased.
      denominator_epsilon: where causal, added to every element of z_i, for the sake of public code that does so.
      stabilizer: "running", as above; "global", as in public code: exponents w . k are reduced by their maximum over
        all keys, so that through epsilon the future leaks into the past, and a stream cannot be split.
      chunk_size: positions whose features exist at once.
      implementation: "blocked" (CPU), "batched" (accelerators), or None for the best of the platform that it is
        compiled for.

    Returns:
      (out, state): the mixed values in the dtype of q, 0 for a row that sees nothing; the sums after the last key, None
      where not causal.

    Raises:
      ValueError: options out of range or that exclude each other.

    Source: Choromanski et al. 2021 (arXiv 2009.14794), equations 4 to 9 and algorithm 1; generalised kernels section 4.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel={kernel!r}; one of {', '.join(KERNELS)} is allowed")
    if projection is None and kernel not in GENERALISED:
        raise ValueError(f"projection=None with kernel={kernel!r}; only {', '.join(GENERALISED)} go without")
    if stabilizer not in STABILIZERS:
        raise ValueError(f"stabilizer={stabilizer!r}; one of {', '.join(STABILIZERS)} is allowed")
    check_implementation(implementation, IMPLEMENTATIONS)
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}; 1 or more positions is allowed")
    if state is not None and (not causal or stabilizer == "global"):
        raise ValueError(
            f"state with causal={causal}, stabilizer={stabilizer!r}: a stream needs causal=True, stabilizer='running'"
        )
    if (causal or segment_ids is not None) and q.shape[1] != k.shape[1]:
        raise ValueError(f"{q.shape[1]} queries and {k.shape[1]} keys: causal and segment_ids need as many of each")

    batch, length, heads, width = q.shape
    if length < FEW_QUERIES and k.shape[1] < FEW_QUERIES:
        implementation = "batched"
    wide = jnp.promote_types(q.dtype, jnp.float32)
    if state is None:
        rows = width if projection is None else projection.shape[-2]
        state = favor_state(batch, heads, v.shape[-1], rows, kernel=kernel)
    documents, keys, segment = _documents(segment_ids, padding_mask, state.segment, k.shape[1])
    sums = Sums(*(x.astype(wide) for x in state[:3]), jnp.zeros((batch, heads), jnp.int32))

    size = min(chunk_size, length)
    q, documents = _fill(q, size), _fill(documents, size, mode="edge")
    k, v, keys = _fill(k, size), _fill(v, size), _fill(keys, size, constant_values=PADDED)
    root = (width**-0.5 if scale is None else scale) ** 0.5
    options = dict(kernel=kernel, epsilon=default_epsilon(kernel) if epsilon is None else epsilon)

    @jax.checkpoint
    def head(sums, q, k, v, documents, keys, *own):
        rows = own[0] if own else projection
        to_features = partial(favor_features, projection=rows, **options)
        of_queries = of_keys = lambda x: to_features(root * x.astype(wide))
        if stabilizer == "global" and kernel in EXPONENTIAL:
            peak = lambda x: exponent_peak(root * x.astype(wide), projection=rows, kernel=kernel)[:, None]
            highest = lax.map(peak, k.reshape(-1, size, width)).reshape(-1)
            highest = jnp.full((size, 1), jnp.max(highest, where=keys != PADDED, initial=FLOOR))
            of_queries = lambda x: to_features(root * x.astype(wide), peak=peak(x))
            of_keys = lambda x: to_features(root * x.astype(wide), peak=highest)
        setting = Setting(of_queries, of_keys, size, kernel == "trigonometric", denominator_epsilon)
        if causal:
            return favor_sums.causal(setting, sums, q, k, v, documents, keys)
        if segment_ids is not None:
            return favor_sums.both_sides_of_documents(setting, sums, q, k, v, documents, keys), None
        return favor_sums.both_sides(setting, sums, q, k, v, keys), None

    of_heads = [x.swapaxes(1, 2) for x in (q, k, v)]
    of_heads += [jnp.broadcast_to(x[:, None], (batch, heads, x.shape[1])) for x in (documents, keys)]
    if projection is not None and projection.ndim == 3:
        of_heads.append(jnp.broadcast_to(projection, (batch, *projection.shape)))
    out, sums = over_heads(head, implementation, sums, *of_heads)
    return out.swapaxes(1, 2)[:, :length], FavorState(*sums[:3], segment) if causal else None


def _fill(x, size, **options):
    """Axis 1 extended to a multiple of `size`."""
    return jnp.pad(x, [(0, 0), (0, -x.shape[1] % size)] + [(0, 0)] * (x.ndim - 2), **options)


def _documents(segment_ids, padding_mask, last, length):
    """Numbers the stretches of equal segments from 0, the one that goes on from before.

    Returns the number of every position (padding goes with what precedes it), the same with PADDED where there is no
    key, and the segment of the last key.
    """
    batch = last.shape[0]
    valid = jnp.ones((batch, length), bool) if padding_mask is None else padding_mask
    if segment_ids is None:
        documents = jnp.zeros((batch, length), jnp.int32)
        return documents, jnp.where(valid, documents, PADDED), last
    latest = lax.cummax(jnp.where(valid, jnp.arange(length), -1), axis=1)
    segments = jnp.take_along_axis(segment_ids.astype(jnp.int32), jnp.maximum(latest, 0), axis=1)
    segments = jnp.where(latest >= 0, segments, last[:, None])
    before = jnp.concatenate([last[:, None], segments[:, :-1]], axis=1)
    documents = jnp.cumsum((segments != before).astype(jnp.int32), axis=1)
    return documents, jnp.where(valid, documents, PADDED), segments[:, -1]
