"""Nystrom attention: queries and keys meet through landmarks, the means of stretches of the sequence."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from effjax.ops.full import full_attention
from effjax.ops.masking import MASKED

INVERSE_STARTS = ("matrix", "batch")


def nystrom_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    *,
    n_landmarks: int,
    iterations: int = 6,
    inverse_start: str = "matrix",
    causal: bool = False,
    padding_mask: Bool[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
    implementation: str | None = None,
) -> Float[Array, "B T N H"]:
    """Attends through m landmarks, in time and memory linear in the length.

        out = softmax(scale Q K~^T) A^+ softmax(scale Q~ K^T) V,   A = softmax(scale Q~ K~^T)

    Landmarks Q~, K~ are the means of m stretches of the positions that are there, as equal as their number allows, so
    that any length works and padding changes nothing; a sequence shorter than m has as many landmarks as positions.
    Computed in float32 whatever the inputs, since A^+ magnifies what rounding leaves.

    Args:
      q: queries.
      k: keys.
      v: values.
      n_landmarks: m.
      iterations: of `iterative_pinv`.
      inverse_start: "matrix", its starting point is scaled by each matrix's own norm; "batch", by the greatest of all
        heads and examples, as in the original code, where one example's result so depends on the others.
      causal: not possible, see below.
      padding_mask: True at positions that are there.
      segment_ids: not possible, see below.
      scale: 1 / sqrt(H) if None.
      dropout_rate: probability that one of the landmarks' weights on the keys, softmax(scale Q~ K^T), is dropped.
      dropout_key: key of the dropout.
      implementation: see `effjax.ops.full.full_attention`.

    Returns:
      The mixed values, in the dtype of q; 0 where no position is there.

    Raises:
      ValueError: causal or segment_ids, which means over stretches of positions cannot honour; sizes out of range.

    Source: Xiong et al. 2021 (arXiv 2102.03902), equation 13 and algorithm 1.
    """
    if causal:
        raise ValueError(
            "causal=True: Nystrom attention passes through means of whole stretches, which hold later positions; only "
            "causal=False is possible"
        )
    if segment_ids is not None:
        raise ValueError(
            "segment_ids: Nystrom attention passes through means of stretches that hold positions of several "
            "documents; only None is possible"
        )
    if n_landmarks < 1 or iterations < 1:
        raise ValueError(f"n_landmarks={n_landmarks}, iterations={iterations}; 1 or more is allowed")
    if inverse_start not in INVERSE_STARTS:
        raise ValueError(f"inverse_start={inverse_start!r}; one of {', '.join(INVERSE_STARTS)} is allowed")

    wide = jnp.promote_types(q.dtype, jnp.float32)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    dtype, (q, k, v) = q.dtype, (x.astype(wide) for x in (q, k, v))
    weights, exists = stretches(padding_mask, q.shape[:2], n_landmarks, wide)
    q_marks, k_marks = (jnp.einsum("bmt,btnh->bmnh", weights, x) for x in (q, k))

    between = _between(q_marks * scale, k_marks, exists)
    dropout = dict(dropout_rate=dropout_rate, dropout_key=dropout_key)
    read = dict(scale=scale, implementation=implementation)
    of_marks = full_attention(q_marks, k, v, padding_mask=padding_mask, **read, **dropout)
    solved = jnp.einsum("bnij,bjnh->binh", iterative_pinv(between, iterations, inverse_start), of_marks)
    out = full_attention(q, k_marks, solved, padding_mask=exists, **read)
    return out.astype(dtype)


def stretches(
    padding_mask: Bool[Array, "B T"] | None, shape: tuple[int, int], n_landmarks: int, dtype=jnp.float32
) -> tuple[Float[Array, "B M T"], Bool[Array, "B M"]]:
    """The matrices that average the positions there are over m stretches, and which stretches have any.

    Position number r of c goes to stretch floor(r m / c).
    """
    valid = jnp.ones(shape, bool) if padding_mask is None else padding_mask
    count = jnp.maximum(valid.sum(1, keepdims=True), 1)
    stretch = (jnp.cumsum(valid, axis=1) - 1) * n_landmarks // count
    members = (stretch[:, None, :] == jnp.arange(n_landmarks)[:, None]) & valid[:, None, :]
    sizes = members.sum(-1, keepdims=True)
    return members.astype(dtype) / jnp.maximum(sizes, 1), sizes[..., 0] > 0


def _between(q_marks, k_marks, exists):
    """softmax(Q~ K~^T) [B, N, M, M]; one that does not exist sees itself alone, and so keeps out of the others."""
    logits = jnp.einsum("binh,bjnh->bnij", q_marks, k_marks)
    exists = exists[:, None, :]
    between = jax.nn.softmax(jnp.where(exists[..., None, :], logits, MASKED), axis=-1)
    return jnp.where(exists[..., :, None], between, jnp.eye(logits.shape[-1], dtype=logits.dtype))


def iterative_pinv(
    matrix: Float[Array, "*batch M M"], iterations: int = 6, start: str = "matrix"
) -> Float[Array, "*batch M M"]:
    """The Moore-Penrose inverse of row-stochastic matrices, approached by

        Z <- Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4,   Z_0 = A^T / max_j sum_i A_ij

    Args:
      matrix: A, each row of sum 1.
      iterations: six bring singular values above about 0.03 to their inverse; smaller ones are damped.
      start: "matrix" takes the maximum over each A, "batch" over all of them.

    Returns:
      Z.

    Source: Xiong et al. 2021 (arXiv 2102.03902), equation 11 (Razavi et al. 2014).
    """
    columns = matrix.sum(-2)
    greatest = columns.max(-1)[..., None, None] if start == "matrix" else columns.max()
    identity = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)

    def improve(inverse, _):
        product = matrix @ inverse
        inner = 15 * identity - product @ (7 * identity - product)
        return 0.25 * inverse @ (13 * identity - product @ inner), None

    return jax.lax.scan(jax.checkpoint(improve), jnp.swapaxes(matrix, -1, -2) / greatest, None, length=iterations)[0]
