"""Linformer: keys and values projected along the length to a fixed number of rows, then exact attention to those."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from effjax.ops.full import full_attention


def linformer_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    *,
    proj_k: Float[Array, "*heads P L"],
    proj_v: Float[Array, "*value_heads R L"] | None = None,
    causal: bool = False,
    padding_mask: Bool[Array, "B S"] | None = None,
    segment_ids: Int[Array, "B S"] | None = None,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
    implementation: str | None = None,
) -> Float[Array, "B T N H"]:
    """Attends from every query to P learned mixtures of the keys.

        out = softmax(scale Q (E K)^T) (F V),   E, F of shape P x S

    Keys and values at padded positions count as zeros before they are mixed, so that padding changes nothing.

    Args:
      q: queries.
      k: keys; K divides N, and query head n reads key head n // (N / K).
      v: values.
      proj_k: E, for all heads or one for each key head; a sequence of S <= L positions takes the first S columns.
      proj_v: F; None takes E.
      causal: not possible, see below.
      padding_mask: True at keys that are there.
      segment_ids: not possible, see below.
      scale: 1 / sqrt(H) if None.
      dropout_rate: probability that a weight is dropped.
      dropout_key: key of the dropout.
      implementation: see `effjax.ops.full.full_attention`.

    Returns:
      The mixed values, in the dtype of q.

    Raises:
      ValueError: causal or segment_ids, which no mask on P mixtures of positions can honour; sizes that do not fit.

    Source: Wang et al. 2020 (arXiv 2006.04768), equation 7.
    """
    refuse_rules(causal, segment_ids)
    for name, proj in (("proj_k", proj_k), ("proj_v", proj_v)):
        if proj is None:
            continue
        if proj.ndim not in (2, 3) or (proj.ndim == 3 and proj.shape[0] != k.shape[2]):
            raise ValueError(f"{name} has shape {proj.shape}; [P, L] or [{k.shape[2]}, P, L] is allowed")
        if proj.shape[-1] < k.shape[1]:
            raise ValueError(f"{name} reaches {proj.shape[-1]} positions and there are {k.shape[1]} keys")
    if proj_v is not None and proj_v.shape[-2] != proj_k.shape[-2]:
        raise ValueError(f"proj_k has {proj_k.shape[-2]} rows and proj_v {proj_v.shape[-2]}: as many are needed")
    k = project_length(k, proj_k, padding_mask)
    v = project_length(v, proj_k if proj_v is None else proj_v, padding_mask)
    # XLA's CPU compiler (jax 0.10.2) lays out a product of products in a way that it cannot run in bfloat16.
    k, v = lax.optimization_barrier((k, v))
    return full_attention(
        q,
        k,
        v,
        scale=scale,
        dropout_rate=dropout_rate,
        dropout_key=dropout_key,
        implementation=implementation,
    )


def refuse_rules(causal: bool, segment_ids) -> None:
    """Raises ValueError for what Linformer cannot do, with the reason."""
    if causal:
        raise ValueError(
            "causal=True: Linformer projects keys along the length, so every mixture that a query may attend to holds "
            "later positions; only causal=False is possible"
        )
    if segment_ids is not None:
        raise ValueError(
            "segment_ids: Linformer projects keys along the length, so every mixture that a query may attend to holds "
            "positions of all documents; only None is possible"
        )


def project_length(
    x: Float[Array, "B S K H"],
    proj: Float[Array, "*heads P L"],
    padding_mask: Bool[Array, "B S"] | None = None,
) -> Float[Array, "B P K H"]:
    """E X for the first S columns of E, padded positions counting as zeros."""
    if padding_mask is not None:
        x = jnp.where(padding_mask[:, :, None, None], x, 0)
    equation = "ps,bskh->bpkh" if proj.ndim == 2 else "kps,bskh->bpkh"
    return jnp.einsum(equation, proj[..., : x.shape[1]].astype(x.dtype), x)
