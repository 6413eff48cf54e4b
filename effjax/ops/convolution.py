"""Convolutions along time: full, depthwise, light and dynamic; packed, padded and streamed."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from effjax.ops.arguments import check_dropout
from effjax.ops.convolution_taps import correlate_depthwise, correlate_full, correlate_heads
from effjax.ops.masking import keep_scale


class Tail(NamedTuple):
    """The last K - 1 inputs of a stream: all that a causal convolution needs of the past."""

    values: Float[Array, "B K-1 D"]
    segment_ids: Int[Array, "B K-1"]  # -1 where empty or padded


def empty_tail(batch_size: int, kernel_size: int, width: int, dtype=jnp.float32) -> Tail:
    """The tail before the first token of `batch_size` streams of vectors of `width`."""
    shape = (batch_size, kernel_size - 1)
    return Tail(jnp.zeros((*shape, width), dtype), jnp.full(shape, -1, jnp.int32))


def causal_conv(
    x: Float[Array, "B T D"],
    kernel: Float[Array, "K D E"],
    *,
    bias: Float[Array, " E"] | None = None,
    tail: Tail | None = None,
    padding_mask: Bool[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T E"], Tail | None]:
    """Convolution of the present and the K - 1 positions before it, over all channels.

        y_t = bias + sum_j x_{t-(K-1)+j} kernel_j,   j = 0 ... K-1: the last tap is the present

    Args:
      x: inputs.
      kernel: one matrix a tap; K = 1 is a linear projection.
      bias: added to every output.
      tail: `empty_tail` at the start of a stream, then what the piece before returned; None: one pass from zeros.
      padding_mask: True at inputs that are there; the others count as 0, NaN too.
      segment_ids: document of each input, 0 or more; an output sees only its own.

    Returns:
      The outputs in the dtype of x, and the tail for the next piece (None where none came in).

    Source: Li et al. 2019 (arXiv 1907.00235), section 4.1: queries and keys of convolutional self-attention.
    """
    pieces = _extend(x, len(kernel), causal=True, tail=tail, padding_mask=padding_mask, segment_ids=segment_ids)
    y = correlate_full(pieces.x, kernel.astype(x.dtype), pieces.visible)
    return _end(y, bias, x.dtype), pieces.tail


def depthwise_conv(
    x: Float[Array, "B T D"],
    kernel: Float[Array, "K D"],
    *,
    bias: Float[Array, " D"] | None = None,
    causal: bool = True,
    tail: Tail | None = None,
    padding_mask: Bool[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    implementation: str | None = None,
) -> tuple[Float[Array, "B T D"], Tail | None]:
    """Convolution of every channel by itself.

        y_{t,d} = bias_d + sum_j kernel_{j,d} x_{t-p+j,d},   p = K-1 if causal, else (K-1) // 2

    An even kernel that is centred sees one position more of the future than of the past ("same" padding).

    Args:
      x: inputs.
      kernel: weights of the K taps of every channel.
      bias: added to every output.
      causal: see no input after the present.
      tail: as in `causal_conv`; causal only.
      padding_mask: True at inputs that are there; the others count as 0, NaN too.
      segment_ids: document of each input, 0 or more; an output sees only its own.
      implementation: how the kernel's gradient is summed: "blocked" (CPU), "batched" (accelerators), or None for the
        best of the platform being compiled for.

    Returns:
      The outputs in the dtype of x, and the tail for the next piece (None where none came in).

    Raises:
      ValueError: a tail where the convolution is not causal, or an implementation that does not exist.

    Source: Gulati et al. 2020 (arXiv 2005.08100), section 2.2; Wu et al. 2019 (arXiv 1901.10430), section 3.
    """
    pieces = _extend(x, len(kernel), causal=causal, tail=tail, padding_mask=padding_mask, segment_ids=segment_ids)
    y = correlate_depthwise(implementation, pieces.x, kernel, pieces.visible)
    return _end(y, bias, x.dtype), pieces.tail


def light_conv(
    x: Float[Array, "B T D"],
    logits: Float[Array, "N K"],
    *,
    normalise: bool = True,
    bias: Float[Array, " D"] | None = None,
    causal: bool = True,
    tail: Tail | None = None,
    padding_mask: Bool[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, "B T D"], Tail | None]:
    """Depthwise convolution whose kernel is a softmax over its taps, one for the D / N channels of a head.

        y_{t,d} = bias_d + sum_j w_{n(d),j} x_{t-p+j,d},   w_n = softmax_j(logits_{n,j}),   n(d) = d // (D / N)

    Args:
      x: inputs.
      logits: of every head's K taps.
      normalise: take the softmax; False uses the logits as weights.
      bias: added to every output.
      causal: p = K-1 and no input after the present is seen; otherwise p = (K-1) // 2.
      tail: as in `causal_conv`; causal only.
      padding_mask: True at inputs that are there; the others count as 0, NaN too.
      segment_ids: document of each input, 0 or more; an output sees only its own.
      dropout_rate: probability that a normalised weight is dropped (DropConnect), one mask [N, K] for all positions.
      dropout_key: key of the dropout.

    Returns:
      The outputs in the dtype of x, and the tail for the next piece (None where none came in).

    Raises:
      ValueError: N does not divide D, a tail where the convolution is not causal, or dropout without a key.

    Source: Wu, Fan et al. 2019 (arXiv 1901.10430), section 3.1.
    """
    return dynamic_conv(
        x,
        logits[None, None],
        normalise=normalise,
        bias=bias,
        causal=causal,
        tail=tail,
        padding_mask=padding_mask,
        segment_ids=segment_ids,
        dropout_rate=dropout_rate,
        dropout_key=dropout_key,
    )


def dynamic_conv(
    x: Float[Array, "B T D"],
    logits: Float[Array, "#B #T N K"],
    *,
    normalise: bool = True,
    bias: Float[Array, " D"] | None = None,
    causal: bool = True,
    tail: Tail | None = None,
    padding_mask: Bool[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, "B T D"], Tail | None]:
    """`light_conv` with a kernel of its own at every position, which the position's input has chosen.

        y_{t,d} = bias_d + sum_j w_{t,n(d),j} x_{t-p+j,d},   w_{t,n} = softmax_j(logits_{t,n,j})

    The taps that reach beyond the sequence, into padding or into another document see zeros; the weights that they
    took from the softmax are not given to the others.

    Args:
      x: inputs.
      logits: of the K taps of every position's heads.
      normalise, bias, causal, tail, padding_mask, segment_ids: as in `light_conv`.
      dropout_rate: probability that a normalised weight is dropped (DropConnect), each by itself.
      dropout_key: key of the dropout.

    Returns:
      The outputs in the dtype of x, and the tail for the next piece (None where none came in).

    Raises:
      ValueError: N does not divide D, a tail where the convolution is not causal, or dropout without a key.

    Source: Wu, Fan et al. 2019 (arXiv 1901.10430), section 3.2.
    """
    heads, size = logits.shape[-2:]
    if x.shape[-1] % heads:
        raise ValueError(f"logits have {heads} heads, which do not divide the {x.shape[-1]} channels of x")
    check_dropout(dropout_rate, dropout_key)
    pieces = _extend(x, size, causal=causal, tail=tail, padding_mask=padding_mask, segment_ids=segment_ids)
    weights = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if normalise:
        weights = jax.nn.softmax(weights, axis=-1)
    if dropout_rate:
        weights = weights * keep_scale(dropout_key, weights.shape, dropout_rate, weights.dtype)
    if pieces.visible is not None:
        weights = jnp.where(pieces.visible[:, :, None], weights, 0)
    by_head = pieces.x.reshape(*pieces.x.shape[:2], heads, -1)
    return _end(correlate_heads(by_head, weights).reshape(x.shape), bias, x.dtype), pieces.tail


class _Pieces(NamedTuple):
    x: Float[Array, "B T+K-1 D"]  # the inputs with all that their taps reach
    visible: Bool[Array, "B T K"] | None  # whether a tap stays in its document; None: they all do
    tail: Tail | None


def _extend(x, size, *, causal, tail, padding_mask, segment_ids) -> _Pieces:
    """The inputs between what stands before and after them."""
    batch, length, _ = x.shape
    if tail is not None and not causal:
        raise ValueError(
            "a tail is given with causal=False: outputs need inputs that are still to come; only causal=True"
        )
    if padding_mask is not None:
        x = jnp.where(padding_mask[..., None], x, 0)
    before = size - 1 if causal else (size - 1) // 2
    around = (before, size - 1 - before)
    ids = None if segment_ids is None else segment_ids.astype(jnp.int32)
    if tail is None:
        x = jnp.pad(x, ((0, 0), around, (0, 0)))
        ids = None if ids is None else jnp.pad(ids, ((0, 0), around), constant_values=-1)
    else:
        ids = jnp.zeros((batch, length), jnp.int32) if ids is None else ids
        if padding_mask is not None:
            ids = jnp.where(padding_mask, ids, -1)
        x = jnp.concatenate([tail.values.astype(x.dtype), x], axis=1)
        ids = jnp.concatenate([tail.segment_ids, ids], axis=1)
        tail = Tail(x[:, length:].astype(tail.values.dtype), ids[:, length:])
    visible = None
    if ids is not None:
        own = ids[:, before : before + length]
        visible = jnp.stack([ids[:, j : j + length] == own for j in range(size)], axis=-1)
    return _Pieces(x, visible, tail)


def _end(y, bias, dtype):
    return (y if bias is None else y + bias).astype(dtype)
