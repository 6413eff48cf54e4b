"""The sums over taps behind the convolutions, with backward passes of their own.

Forward and backward are sums of shifted products that XLA fuses into one loop; nothing is as large as time x taps x
channels. Left to autodiff, the shifts of the backward pass become tens of padded copies (30 times slower on a CPU).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from effjax.ops.platforms import by_platform

IMPLEMENTATIONS = ("blocked", "batched")
PRODUCT_BLOCK = 128  # positions of which each tap makes one matrix product
BLOCK = 32  # positions whose weights' gradients are one product: their taps see at most K - 1 positions more
UNROLLED = 16  # positions that one step of the loop over the length adds up at once


def _sum(terms):
    """Their sum, in order; `sum` would start from an integer."""
    first, *others = terms
    for term in others:
        first = first + term
    return first


def _around(x, margin):
    """x with zeros before and after its length."""
    return jnp.pad(x, ((0, 0), (margin, margin), *[(0, 0)] * (x.ndim - 2)))


def _show(x, visible, tap):
    """x where the tap stays in its document, else 0."""
    return x if visible is None else jnp.where(lax.dynamic_index_in_dim(visible, tap, axis=-1), x, 0)


def _fill(x, missing):
    """x with zeros after its length."""
    return jnp.pad(x, ((0, 0), (0, missing), *[(0, 0)] * (x.ndim - 2)))


def _split(x, block):
    """[B, T, ...] -> [B, blocks, block, ...]."""
    return x.reshape(x.shape[0], -1, block, *x.shape[2:])


def _join(x):
    """The inverse of `_split`."""
    return x.reshape(x.shape[0], -1, *x.shape[3:])


def _windows(x, block, size):
    """[B, L, ...] -> [B, blocks, block + K - 1, ...]: what the taps of each block of outputs reach.

    Made of whole blocks and their successors, so that a length sharded over devices exchanges its edges only. One block
    is taken as it is: XLA's partitioner gives wrong products of slices of slices of it (jaxlib 0.10).
    """
    count = (x.shape[1] - size + 1) // block
    if count == 1:
        return x[:, None]
    behind = -(-(size - 1) // block)
    x = jnp.pad(x, ((0, 0), (0, (count + behind) * block - x.shape[1]), *[(0, 0)] * (x.ndim - 2)))
    blocks = x.reshape(x.shape[0], count + behind, block, *x.shape[2:])
    near = jnp.concatenate([blocks[:, i : i + count] for i in range(behind + 1)], axis=2)
    return near[:, :, : block + size - 1]


def _band(products, size):
    """[..., q, q + K - 1] -> [..., q, K]: row i from column i on."""
    *leading, rows, columns = products.shape
    flat = jnp.pad(products.reshape(*leading, -1), [(0, 0)] * len(leading) + [(0, rows)])
    return flat.reshape(*leading, rows, columns + 1)[..., :size]


def _wide(x):
    return jnp.promote_types(x.dtype, jnp.float32)


@jax.custom_vjp
def correlate_full(
    x: Float[Array, "B L D"], kernel: Float[Array, "K D E"], visible: Bool[Array, "B T K"] | None
) -> Float[Array, "B T E"]:
    """y_t = sum_j visible_{t,j} x_{t+j} kernel_j with L = T + K - 1; float32 or wider.

    A loop over taps: side by side, their products would all be in memory before they are added.
    """
    size = len(kernel)
    length = x.shape[1] - size + 1
    block = min(PRODUCT_BLOCK, length)
    near = _windows(_fill(x, -length % block), block, size)
    shown = None if visible is None else _split(_fill(visible, -length % block), block)

    def step(y, tap):
        j, matrix = tap
        reached = _show(lax.dynamic_slice_in_dim(near, j, block, axis=2), shown, j)
        return y + jnp.einsum("bctd,de->bcte", reached, matrix, preferred_element_type=y.dtype), None

    y = jnp.zeros((*near.shape[:2], block, kernel.shape[2]), _wide(x))
    y, _ = lax.scan(step, y, (jnp.arange(size), kernel))
    return _join(y)[:, :length]


def _full_fwd(x, kernel, visible):
    return correlate_full(x, kernel, visible), (x, kernel, visible)


def _full_bwd(residuals, g):
    x, kernel, visible = residuals
    size, length, reach = len(kernel), g.shape[1], x.shape[1]
    narrow = g.astype(x.dtype)

    # Input s met tap j at output s - j: a convolution of the outputs with the taps in reverse.
    block = min(PRODUCT_BLOCK, reach)
    outputs = _windows(_fill(_around(narrow, size - 1), -reach % block), block, size)
    shown = None if visible is None else _windows(_fill(_around(visible, size - 1), -reach % block), block, size)

    def input_step(total, tap):
        j, matrix = tap
        met = lambda a: lax.dynamic_slice_in_dim(a, size - 1 - j, block, axis=2)
        near = _show(met(outputs), None if shown is None else met(shown), j)
        return total + jnp.einsum("bcte,de->bctd", near, matrix, preferred_element_type=g.dtype), None

    grad_x = jnp.zeros((*outputs.shape[:2], block, x.shape[2]), g.dtype)
    grad_x, _ = lax.scan(input_step, grad_x, (jnp.arange(size), kernel))

    block = min(PRODUCT_BLOCK, length)
    near = _windows(_fill(x, -length % block), block, size)
    own = _split(_fill(narrow, -length % block), block)
    own_shown = None if visible is None else _split(_fill(visible, -length % block), block)

    product = partial(jnp.einsum, "bctd,bcte->de", preferred_element_type=g.dtype)

    def kernel_step(j):
        reached = lax.dynamic_slice_in_dim(near, j, block, axis=2)
        return product(reached, _show(own, own_shown, j)).astype(kernel.dtype)

    return _join(grad_x)[:, :reach].astype(x.dtype), lax.map(kernel_step, jnp.arange(size)), None


correlate_full.defvjp(_full_fwd, _full_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def correlate_depthwise(
    implementation: str | None,
    x: Float[Array, "B L D"],
    kernel: Float[Array, "K D"],
    visible: Bool[Array, "B T K"] | None,
) -> Float[Array, "B T D"]:
    """y_{t,d} = sum_j visible_{t,j} x_{t+j,d} kernel_{j,d} with L = T + K - 1; float32 or wider."""
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"implementation is {implementation!r}: it must be None or one of {IMPLEMENTATIONS}")
    length = x.shape[1] - len(kernel) + 1
    x, kernel = x.astype(_wide(x)), kernel.astype(_wide(x))
    return _sum(_show(x[:, j : j + length] * kernel[j], visible, j) for j in range(len(kernel)))


def _depthwise_fwd(implementation, x, kernel, visible):
    return correlate_depthwise(implementation, x, kernel, visible), (x, kernel, visible)


def _depthwise_bwd(implementation, residuals, g):
    x, kernel, visible = residuals
    size, reach = len(kernel), x.shape[1]
    around = _around(g, size - 1)
    shown = None if visible is None else _around(visible, size - 1)
    # Output s - j is where tap j met input s.
    starts = [size - 1 - j for j in range(size)]
    grad_x = _sum(
        _show(
            around[:, start : start + reach] * kernel[j].astype(g.dtype),
            None if shown is None else shown[:, start : start + reach],
            j,
        )
        for j, start in enumerate(starts)
    )
    forms = {"blocked": _kernel_gradient_blocked, "batched": _kernel_gradient_batched}
    if implementation is None:
        grad_kernel = by_platform(x, g, visible, cpu=forms["blocked"], default=forms["batched"])
    else:
        grad_kernel = forms[implementation](x, g, visible)
    return grad_x.astype(x.dtype), grad_kernel.astype(kernel.dtype), None


correlate_depthwise.defvjp(_depthwise_fwd, _depthwise_bwd)


def _kernel_gradient_batched(x, g, visible):
    """[K, D]: a reduction a tap; batch and length are plain axes, so each may be sharded."""
    length, size = g.shape[1], x.shape[1] - g.shape[1] + 1
    return jnp.stack([jnp.sum(_show(x[:, j : j + length] * g, visible, j), axis=(0, 1)) for j in range(size)])


def _kernel_gradient_blocked(x, g, visible):
    """[K, D] for the CPU: a loop over a few positions at a time, added to all taps while they are in cache."""
    batch, length, width = g.shape
    size = x.shape[1] - length + 1
    missing = -length % UNROLLED
    x, g, visible = (None if a is None else _fill(a, missing) for a in (x, g, visible))
    per_row = g.shape[1] // UNROLLED

    def cut(a, index, positions):
        start = (index // per_row, index % per_row * UNROLLED, 0)
        return lax.dynamic_slice(a, start, (1, positions, a.shape[2]))[0]

    def step(total, index):
        near, own = cut(x, index, UNROLLED + size - 1).astype(g.dtype), cut(g, index, UNROLLED)
        shown = None if visible is None else cut(visible, index, UNROLLED)[..., None]
        terms = [near[i : i + size] * own[i] for i in range(UNROLLED)]
        if shown is not None:
            terms = [jnp.where(shown[i], term, 0) for i, term in enumerate(terms)]
        return total + _sum(terms), None

    return lax.scan(step, jnp.zeros((size, width), g.dtype), jnp.arange(batch * per_row))[0]


@jax.custom_vjp
def correlate_heads(x: Float[Array, "B L N R"], weights: Float[Array, "#B #T N K"]) -> Float[Array, "B T N R"]:
    """y_{t,n} = sum_j weights_{t,n,j} x_{t+j,n} with L = T + K - 1; float32 or wider."""
    size = weights.shape[-1]
    length = x.shape[1] - size + 1
    x = x.astype(weights.dtype)
    return _sum(x[:, j : j + length] * weights[..., j, None] for j in range(size))


def _heads_fwd(x, weights):
    return correlate_heads(x, weights), (x, weights)


def _heads_bwd(residuals, g):
    x, weights = residuals
    size, reach, length = weights.shape[-1], x.shape[1], g.shape[1]
    around = _around(g, size - 1)
    moving = weights.shape[1] > 1
    weights_around = _around(weights, size - 1) if moving else weights

    def tap(j):
        start = size - 1 - j
        w = weights_around[:, start : start + reach] if moving else weights
        return around[:, start : start + reach] * w[..., j, None]

    grad_x = _sum(tap(j) for j in range(size))

    # Blocks of queries against all that their taps reach, as in local attention, of which the band is kept.
    block = min(BLOCK, length)
    missing = -length % block
    queries = _split(_fill(g.astype(x.dtype), missing), block)
    near = _windows(_fill(x, missing), block, size)
    products = jnp.einsum("bcqnr,bcknr->bcnqk", queries, near, preferred_element_type=weights.dtype)
    grad = _join(_band(products, size).swapaxes(2, 3))[:, :length]
    shared = [axis for axis in (0, 1) if weights.shape[axis] != grad.shape[axis]]
    return grad_x.astype(x.dtype), grad.sum(shared, keepdims=True)


correlate_heads.defvjp(_heads_fwd, _heads_bwd)
