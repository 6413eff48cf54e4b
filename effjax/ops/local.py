"""Chunked local attention: queries see their own chunk and its neighbours; cost and memory linear in length."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from effjax.ops import local_batched, local_blocked
from effjax.ops.arguments import check_dropout, check_implementation
from effjax.ops.masking import MASKED, keep_scale, pad_ids, pair_ids
from effjax.ops.platforms import by_platform

SELF_LOGIT = -5e4  # the last resort of a query under unit_keys; fits float16
_FORMS = {"blocked": local_blocked, "batched": local_batched}


@dataclass(frozen=True)
class Reach:
    """Which keys a query may see by position alone."""

    chunk: int
    offsets: tuple[int, ...]  # of the key chunks seen, relative to the query's chunk
    causal: bool
    window: int | None
    circular: bool
    avoid_self: bool  # a query sees itself at SELF_LOGIT

    def apply(self, s, offset, query_ids, key_ids, *, transposed=False):
        """Masks logits s [..., chunk, queries, keys] (or transposed) of the key chunk at `offset`; ids [..., chunk]."""

        def across(query, key):
            return (query[..., None, :], key[..., :, None]) if transposed else (query[..., :, None], key[..., None, :])

        query, key = across(jnp.arange(self.chunk), jnp.arange(self.chunk) + offset * self.chunk)
        if self.avoid_self and offset == 0:
            s = jnp.where(query == key, SELF_LOGIT, s)
        query_ids, key_ids = across(query_ids, key_ids)
        visible = query_ids == key_ids
        if self.causal and offset == 0:
            visible &= query >= key
        if self.window is not None:
            visible &= jnp.abs(query - key) <= self.window
        return jnp.where(visible, s, MASKED)


class Rules(NamedTuple):
    """What else decides: ids [B, T] that have to agree, dropout factors [offsets, chunk, chunk] or None."""

    query_ids: Int[Array, "B T"]
    key_ids: Int[Array, "B T"]
    keep: Float[Array, "offsets chunk chunk"] | None


def local_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    *,
    chunk_size: int,
    look_back: int = 1,
    look_ahead: int = 0,
    causal: bool = True,
    window: int | None = None,
    circular: bool = False,
    unit_keys: bool = False,
    padding_mask: Bool[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
    implementation: str | None = None,
) -> Float[Array, "B T N H"]:
    """Attends from every query to the keys of its own chunk and of its neighbours.

    out_i = sum_j softmax_j(scale q_i . k_j) v_j over the keys j that the other rules allow and whose chunk is near:
    -look_back <= floor(j/c) - floor(i/c) <= look_ahead; 0 where there is none.

    Args:
      q: queries.
      k: keys.
      v: values.
      chunk_size: c, positions; any length works, the last chunk may be short.
      look_back: chunks seen before the own one.
      look_ahead: chunks seen after the own one.
      causal: query i sees no key after i.
      window: query i sees only keys with |i - j| <= window.
      circular: the first chunk is the neighbour of the last one; nothing new is seen if causal. Each key counts once.
      unit_keys: keys are divided by their length and a query sees itself only as a last resort, at logit -5e4
        (shared queries and keys).
      padding_mask: True at keys that are there.
      segment_ids: document of each position; a query sees only its own.
      scale: 1 / sqrt(H) if None.
      dropout_rate: probability that a weight is dropped; one mask [chunk, keys] serves all chunks, heads and sequences.
      dropout_key: key of the dropout.
      implementation: "blocked" (CPU), "batched" (accelerators; splits over batch, heads and length), or None for the
        best of the platform being compiled for.

    Returns:
      The mixed values, in the dtype of q.

    Raises:
      ValueError: options out of range or that exclude each other.

    Source: Kitaev et al. 2020 (arXiv 2001.04451), local layers of its public configurations (trax `SelfAttention`).
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}: it must be at least 1")
    if look_back < 0 or look_ahead < 0:
        raise ValueError(f"look_back is {look_back} and look_ahead {look_ahead}: they must be at least 0")
    if circular and window is not None:
        raise ValueError(f"window is {window} and circular is True: distance around the end is not defined; drop one")
    check_dropout(dropout_rate, dropout_key)
    check_implementation(implementation, tuple(_FORMS))

    batch, length, _, width = q.shape
    chunk = min(chunk_size, length)
    padded = -(-length // chunk) * chunk
    circular = circular and not causal
    offsets = _offsets(padded // chunk, chunk, look_back, 0 if causal else look_ahead, window, circular)
    reach = Reach(chunk, offsets, causal, window, circular, avoid_self=unit_keys)

    q = q * jnp.asarray(width**-0.5 if scale is None else scale, q.dtype)
    if unit_keys:
        k = _unit_length(k)
    query_ids, key_ids = pair_ids(padding_mask, segment_ids, segment_ids, length)
    keep = None
    if dropout_rate:
        keep = keep_scale(
            dropout_key, (len(offsets), chunk, chunk), dropout_rate, jnp.promote_types(q.dtype, jnp.float32)
        )
    rules = Rules(
        pad_ids(query_ids, batch, length, padded, keys=False), pad_ids(key_ids, batch, length, padded, keys=True), keep
    )
    q, k, v = (jnp.pad(x, ((0, 0), (0, padded - length), (0, 0), (0, 0))) for x in (q, k, v))
    return _attend(reach, implementation, q, k, v, rules)[:, :length]


def _offsets(chunks, chunk, look_back, look_ahead, window, circular):
    """The distinct chunks that a query sees, the own one first."""
    near = sorted(range(-look_back, look_ahead + 1), key=abs)
    if circular:
        seen = {}
        for offset in near:
            seen.setdefault(offset % chunks, offset)
        return tuple(seen.values())
    reachable = chunks if window is None else min(chunks, -(-window // chunk) + 1)
    return tuple(offset for offset in near if abs(offset) < reachable)


def _unit_length(k):
    x = k.astype(jnp.promote_types(k.dtype, jnp.float32))
    return (x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-24))).astype(k.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(reach, implementation, q, k, v, rules):
    return _forward(reach, implementation, q, k, v, rules)[0]


def _forward(reach, implementation, q, k, v, rules):
    out, lse = _per_platform("forward", reach, implementation, q, k, v, rules)
    return out, (q, k, v, rules, out, lse)


def _backward(reach, implementation, residuals, g):
    return *_per_platform("backward", reach, implementation, *residuals, g), None


_attend.defvjp(_forward, _backward)


def _per_platform(direction, reach, implementation, *arrays):
    """Runs one direction in the named form, or in the best one for the platform that the program is lowered for."""
    forms = {name: partial(getattr(form, direction), reach) for name, form in _FORMS.items()}
    if implementation is not None:
        return forms[implementation](*arrays)
    return by_platform(*arrays, cpu=forms["blocked"], default=forms["batched"])
