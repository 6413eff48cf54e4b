"""Cross-entropy of a linear read-out whose logits exist for one chunk of positions at a time."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from effjax.ops.chunking import chunk_count, join_chunks, split_chunks


def chunked_cross_entropy(
    x: Float[Array, "B T D"],
    kernel: Float[Array, "D V"],
    targets: Int[Array, "B T"],
    *,
    bias: Float[Array, " V"] | None = None,
    weights: Float[Array, "B T"] | None = None,
    chunk_size: int = 1024,
) -> Float[Array, "B T"]:
    """Negative log-likelihood of each target under softmax(x kernel + bias).

        nats[b, t] = weights[b, t] * (logsumexp_v l[b, t, v] - l[b, t, targets[b, t]]),   l = x kernel + bias

    The length is cut into chunks, each of which builds [B, chunk, V] logits, forward and again backward; what is kept
    between the two is one number a position. A length within one chunk takes the direct path, whose logits are stored.
    Where the length is sharded over devices, a chunk length that they divide keeps all work local.

    Args:
      x: hidden vectors.
      kernel: read-out matrix. Matrix products run in the dtype of x; logits and all sums are float32 or wider.
      targets: class ids in [0, V).
      bias: read-out bias.
      weights: factor of each position's loss, 0 to leave it out; 1 where None.
      chunk_size: most positions of the length whose logits exist at once.

    Returns:
      nats per target, float32 (float64 for float64 inputs).

    Raises:
      ValueError: chunk_size below 1.

    Source: Kitaev et al., Reformer (2020), section 3, "Chunking", last paragraph.
    """
    bias = jnp.zeros(kernel.shape[1], kernel.dtype) if bias is None else bias
    if chunk_count(x.shape[1], chunk_size) == 1:
        nats = _nats(x, kernel, bias, targets)[0]
    else:
        chunks = _chunked(split_chunks(x, chunk_size), kernel, bias, split_chunks(targets, chunk_size))
        nats = join_chunks(chunks, x.shape[1])
    return nats if weights is None else nats * weights


def _logits(x, kernel, bias):
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.einsum("btd,dv->btv", x, kernel.astype(x.dtype), preferred_element_type=wide) + bias.astype(wide)


def _is_target(targets, size):
    # A comparison rather than a gather: it fuses into the sum and splits over devices along the classes.
    return targets[..., None] == jnp.arange(size)


def _nats(x, kernel, bias, targets):
    logits = _logits(x, kernel, bias)
    log_normaliser = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.sum(logits, axis=-1, where=_is_target(targets, logits.shape[-1]))
    return log_normaliser - chosen, log_normaliser


@jax.custom_vjp
def _chunked(x, kernel, bias, targets):
    return _chunked_fwd(x, kernel, bias, targets)[0]


def _chunked_fwd(x, kernel, bias, targets):
    _, (nats, log_normaliser) = jax.lax.scan(lambda _, c: (None, _nats(c[0], kernel, bias, c[1])), None, (x, targets))
    return nats, (x, kernel, bias, targets, log_normaliser)


def _chunked_bwd(residuals, ct):
    x, kernel, bias, targets, log_normaliser = residuals
    product = functools.partial(jnp.einsum, preferred_element_type=ct.dtype)

    def step(sums, chunk):
        d_kernel, d_bias = sums
        x, targets, log_normaliser, ct = chunk
        probabilities = jnp.exp(_logits(x, kernel, bias) - log_normaliser[..., None])
        d_logits = (probabilities - _is_target(targets, bias.size)) * ct[..., None]
        d_bias = d_bias + d_logits.sum((0, 1))
        d_logits = d_logits.astype(x.dtype)
        d_kernel = d_kernel + product("btd,btv->dv", x, d_logits)
        d_x = product("btv,dv->btd", d_logits, kernel.astype(x.dtype))
        return (d_kernel, d_bias), d_x.astype(x.dtype)

    sums = jnp.zeros(kernel.shape, ct.dtype), jnp.zeros(bias.shape, ct.dtype)
    (d_kernel, d_bias), d_x = jax.lax.scan(step, sums, (x, targets, log_normaliser, ct))
    return d_x, d_kernel.astype(kernel.dtype), d_bias.astype(bias.dtype), None


_chunked.defvjp(_chunked_fwd, _chunked_bwd)
