"""Exact attention in memory linear in length: chunked online softmax, backward pass from the log-sum-exp."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from effjax.ops import full_batched, full_blocked, full_kernels
from effjax.ops.arguments import check_dropout, check_groups, check_implementation, segments_of_keys
from effjax.ops.masking import Rules, pair_ids
from effjax.ops.platforms import by_platform

_FORMS = {"blocked": full_blocked, "batched": full_batched}
FEW_QUERIES = 32  # below, a block per head is too small to be worth a loop
IMPLEMENTATIONS = (*_FORMS, *full_kernels.KERNELS)


def full_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    *,
    causal: bool = False,
    mask: Bool[Array, "#B #N #T S"] | None = None,
    bias: Float[Array, "#B #N #T S"] | None = None,
    padding_mask: Bool[Array, "B S"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    key_segment_ids: Int[Array, "B S"] | None = None,
    query_offset: int | Int[Array, ""] | Int[Array, " B"] = 0,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
    implementation: str | None = None,
) -> Float[Array, "B T N H"]:
    """Attends from every query to every key it may see.

    out_i = sum_j softmax_j(scale q_i . k_j + bias_ij) v_j over the keys j allowed by every rule given; 0 where there is
    none. With m the running maximum and l the running sum over blocks of keys, only L = m + log l is kept; the backward
    pass recomputes P = exp(S - L) block by block and uses dS = P * (dO V^T - rowsum(dO * O)).

    Args:
      q: queries.
      k: keys; K divides N, and query head n reads key head n // (N / K).
      v: values.
      causal: query i sees the keys at positions up to i + query_offset.
      mask: True where query may attend to key.
      bias: added to the scaled logits; differentiable.
      padding_mask: True at keys that are there.
      segment_ids: document of each query; a query sees only its own.
      key_segment_ids: document of each key; segment_ids if None.
      query_offset: position of the first query, where the first key stands at 0 (decoding against a cache).
      scale: 1 / sqrt(H) if None.
      dropout_rate: probability that a weight is dropped.
      dropout_key: key of the dropout; masks differ between implementations.
      implementation: "blocked" (CPU), "batched" (accelerators), "splash" (Pallas, TPU; under `shard_map` over the mesh
        that `jax.set_mesh` set), "cudnn" (GPU), or None for the best of the platform being compiled for.

    Returns:
      The mixed values, in the dtype of q.

    Raises:
      ValueError: lengths, heads or options that do not fit together.
      NotImplementedError: the named implementation cannot serve these arguments; the message says why.

    Source: Rabe & Staats 2021 (arXiv 2112.05682); Dao et al. 2022 (arXiv 2205.14135), algorithms 1 and 4.
    """
    batch, length, heads, width = q.shape
    keys, groups = k.shape[1:3]
    check_groups(heads, groups)
    key_segment_ids = segments_of_keys(segment_ids, key_segment_ids, length, keys)
    check_dropout(dropout_rate, dropout_key)
    check_implementation(implementation, IMPLEMENTATIONS)

    q = q * jnp.asarray(width**-0.5 if scale is None else scale, q.dtype)
    ids = pair_ids(padding_mask, segment_ids, key_segment_ids, length)
    plain = mask is None and bias is None and dropout_rate == 0
    kernel = full_kernels.choose(implementation, q, k, *ids, causal=causal, query_offset=query_offset, plain=plain)
    if kernel is not None:
        return kernel(q, k, v)
    offsets = jnp.broadcast_to(jnp.asarray(query_offset, jnp.int32), (batch,))
    rules = Rules(mask, *ids, offsets, dropout_key if dropout_rate else None)
    return _attend(causal, dropout_rate, implementation, q, k, v, bias, rules)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _attend(causal, dropout_rate, implementation, q, k, v, bias, rules):
    return _forward(causal, dropout_rate, implementation, q, k, v, bias, rules)[0]


def _forward(causal, dropout_rate, implementation, q, k, v, bias, rules):
    options = {"causal": causal, "dropout_rate": dropout_rate}
    out, lse = _per_platform("forward", implementation, options, q, k, v, bias, rules)
    return out, (q, k, v, bias, rules, out, lse)


def _backward(causal, dropout_rate, implementation, residuals, g):
    options = {"causal": causal, "dropout_rate": dropout_rate}
    grad_q, grad_k, grad_v, grad_bias = _per_platform("backward", implementation, options, *residuals, g)
    if grad_bias is not None:
        grad_bias = grad_bias.astype(residuals[3].dtype)
    return grad_q, grad_k, grad_v, grad_bias, None


_attend.defvjp(_forward, _backward)


def _per_platform(direction, implementation, options, q, *others):
    """Runs one direction in the named form, or in the best one for the platform that the program is lowered for."""
    blocked, batched = (partial(getattr(form, direction), **options) for form in _FORMS.values())
    if implementation is not None:
        return {"blocked": blocked, "batched": batched}[implementation](q, *others)
    if q.shape[1] < FEW_QUERIES:
        return batched(q, *others)
    return by_platform(q, *others, cpu=blocked, default=batched)
