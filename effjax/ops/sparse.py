"""Attention under a static pattern: cost and memory follow the blocks of pairs that the pattern visits."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from effjax.ops import sparse_batched, sparse_blocked, sparse_kernels, sparse_positions
from effjax.ops.arguments import check_dropout, check_groups, check_implementation, segments_of_keys
from effjax.ops.masking import pair_ids
from effjax.ops.pattern_algebra import Pattern
from effjax.ops.platforms import by_platform
from effjax.ops.sparse_plan import plan
from effjax.ops.sparse_rules import Options, Rules

_FORMS = {"blocked": sparse_blocked, "batched": sparse_batched}
IMPLEMENTATIONS = (*_FORMS, "splash")


def sparse_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    *,
    pattern: Pattern,
    bias: Callable[..., Array] | None = None,
    padding_mask: Bool[Array, "B S"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    key_segment_ids: Int[Array, "B S"] | None = None,
    query_offset: int | Int[Array, ""] | Int[Array, " B"] = 0,
    key_positions: Int[Array, "B S"] | None = None,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
    implementation: str | None = None,
) -> Float[Array, "B T N H"]:
    """Attends from every query to the keys that the pattern allows.

    out_i = sum_j softmax_j(scale q_i . k_j + bias(i, j, head)) v_j over the keys j with pattern.allows(i, j, head) that
    the other rules allow too; 0 where there is none. The blocks that are visited are found once, on the host, while
    tracing. Each part of the pattern runs in its own order of positions, with an online softmax; parts are disjoint and
    merge by their log-sum-exps L: out = sum_p exp(L_p - L) out_p, L = log sum_p exp L_p. Only out and L are kept for
    the backward pass.

    Args:
      q: queries.
      k: keys; K divides N, and query head n reads key head n // (N / K).
      v: values.
      pattern: which query may attend to which key; see `effjax.ops.patterns`.
      bias: function (query, key, head) -> number of scalar positions, added to the scaled logits of visited pairs:
        ALiBi, a table of relative positions, or the logarithm of a soft mask. Arrays that it closes over get gradients.
      padding_mask: True at keys that are there.
      segment_ids: document of each query; a query sees only its own.
      key_segment_ids: document of each key; segment_ids if None.
      query_offset: position of the first query, where the first key stands at 0. An array is for decoding: the pattern
        is then evaluated pair by pair, for all keys given.
      key_positions: positions of the keys, for caches in which these stand in another order; as a traced query_offset.
      scale: 1 / sqrt(H) if None.
      dropout_rate: probability that a weight is dropped.
      dropout_key: key of the dropout; the mask is a function of the key, example, head, query and key position.
      implementation: "blocked" (CPU), "batched" (accelerators), "splash" (Pallas, TPU; parts in another order of
        positions cost it dearly, and padded positions give 0), or None for the best of the platform being compiled for.

    Returns:
      The mixed values, in the dtype of q.

    Raises:
      ValueError: options that do not fit together, or a pattern under which every query sees nothing.
      NotImplementedError: the named implementation cannot serve these arguments; the message says why.

    Source: Child et al. 2019 (arXiv 1904.10509), section 5; Dao et al. 2022 (arXiv 2205.14135), section 3.3.
    """
    batch, length, heads, width = q.shape
    keys, groups = k.shape[1:3]
    check_groups(heads, groups)
    key_segment_ids = segments_of_keys(segment_ids, key_segment_ids, length, keys)
    check_dropout(dropout_rate, dropout_key)
    check_implementation(implementation, IMPLEMENTATIONS)

    q = q * jnp.asarray(width**-0.5 if scale is None else scale, q.dtype)
    query_ids, key_ids = pair_ids(padding_mask, segment_ids, key_segment_ids, length)
    seed = jax.random.bits(dropout_key, (2,), jnp.uint32) if dropout_rate else None
    bias, bias_arrays = _open_bias(bias)
    options, rules = Options(bias, dropout_rate), Rules(query_ids, key_ids, bias_arrays, seed)
    if key_positions is not None or not isinstance(query_offset, (int, np.integer)):
        offsets = jnp.broadcast_to(jnp.asarray(query_offset, jnp.int32), (batch,))
        query_positions = offsets[:, None] + jnp.arange(length)
        if key_positions is None:
            key_positions = jnp.broadcast_to(jnp.arange(keys), (batch, keys))
        return sparse_positions.attend(pattern, options, q, k, v, rules, query_positions, key_positions)
    made = plan(pattern, heads, length, keys, int(query_offset))
    plain = bias is None and not dropout_rate
    kernel = sparse_kernels.choose(implementation, pattern, q, k, rules, query_offset=int(query_offset), plain=plain)
    if kernel is not None:
        return kernel(q, k, v)
    return _attend(made, options, implementation, q, k, v, rules)


def _open_bias(bias):
    """The bias as a function of all arrays that it closes over, and these arrays."""
    if bias is None:
        return None, ()
    at = jax.ShapeDtypeStruct((), jnp.int32)
    closed = jax.make_jaxpr(bias)(at, at, at)
    if [x.shape for x in closed.out_avals] != [()]:
        raise ValueError(f"bias returns {closed.out_avals} for scalar positions: it must return one number")
    arrays = [i for i, x in enumerate(closed.consts) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]

    def open_bias(query, key, head, *given):
        consts = list(closed.consts)
        for i, x in zip(arrays, given):
            consts[i] = x
        return jax.core.eval_jaxpr(closed.jaxpr, consts, query, key, head)[0]

    return open_bias, tuple(jnp.asarray(closed.consts[i]) for i in arrays)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _attend(made, options, implementation, q, k, v, rules):
    return _forward(made, options, implementation, q, k, v, rules)[0]


def _forward(made, options, implementation, q, k, v, rules):
    out, lse = _per_platform("forward", made, options, implementation, q, k, v, rules)
    return out, (q, k, v, rules, out, lse)


def _backward(made, options, implementation, residuals, g):
    *grads, grad_bias = _per_platform("backward", made, options, implementation, *residuals, g)
    return *grads, Rules(None, None, grad_bias, None)


_attend.defvjp(_forward, _backward)


def _per_platform(direction, made, options, implementation, *arrays):
    """Runs one direction in the named form, or in the best one for the platform that the program is lowered for."""
    forms = {name: partial(getattr(form, direction), made, options) for name, form in _FORMS.items()}
    if implementation is not None:
        return forms[implementation](*arrays)
    return by_platform(*arrays, cpu=forms["blocked"], default=forms["batched"])
