"""The loss of a softmax over a vocabulary, without all its logits in memory."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def chunked_cross_entropy(
    x: Float[Array, "B T D"],
    kernel: Float[Array, "D V"],
    targets: Int[Array, "B T"],
    *,
    bias: Float[Array, " V"] | None = None,
    chunk_size: int,
) -> Float[Array, "B T"]:
    """`-log softmax(x W + b)[target]` at every position, in nats.

    Slices of the length are computed one after the other, and once more in the backward pass: `[B, chunk_size, V]`
    logits are in memory, not `[B, T, V]`. The batch is never reshaped, so that it may be sharded.

    Args:
      x: what the head sees; products are taken in its dtype, the softmax in float32 at least.
      kernel: the head's weights.
      targets: ids in [0, V).
      bias: the head's bias.
      chunk_size: positions a slice; any length.

    Returns:
      float32 (float64 for float64 inputs).

    Raises:
      ValueError: chunk_size is below 1.

    Source: chunking of large-vocabulary layers, Kitaev et al. 2020 (2001.04451), section 3.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}; 1 or more is allowed")

    @jax.checkpoint
    def piece(x, targets, kernel, bias):
        logits = (x @ kernel.astype(x.dtype)).astype(jnp.promote_types(x.dtype, jnp.float32))
        if bias is not None:
            logits = logits + bias
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - chosen

    batch, length, width = x.shape
    if length <= chunk_size:
        return piece(x, targets, kernel, bias)
    chunks = -(-length // chunk_size)
    padding = (0, chunks * chunk_size - length)
    x = jnp.pad(x, ((0, 0), padding, (0, 0))).reshape(batch, chunks, chunk_size, width)
    targets = jnp.pad(targets, ((0, 0), padding)).reshape(batch, chunks, chunk_size)
    slices = (jnp.moveaxis(x, 1, 0), jnp.moveaxis(targets, 1, 0))
    nats = jax.lax.map(lambda slice: piece(*slice, kernel, bias), slices)
    return jnp.moveaxis(nats, 0, 1).reshape(batch, chunks * chunk_size)[:, :length]
