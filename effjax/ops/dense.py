"""The product of activations and a kernel, with the kernel's gradient in an order that every backend does fast."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from effjax.ops.kernels import is_kernel


def dense_dot(x, kernel, dimension_numbers, precision=None, preferred_element_type=None):
    """`lax.dot_general` of activations with a kernel, the same values and gradients: `dW = x^T g`.

    What JAX derives for the kernel is `(g^T x)^T`. XLA leaves both transpositions where they are on CPUs, and takes two
    to three times as long for it where the kernel is wide. Hand it to Flax: `nn.Dense(…, dot_general=dense_dot)`.

    Args:
      x: activations; the contracted axes are the last ones.
      kernel: the contracted axes are the first ones; an array, or what stands in its place (`effjax.ops.kernels`).
      dimension_numbers, precision, preferred_element_type: as of `lax.dot_general`, without batch axes.

    Raises:
      ValueError: other axes are contracted, or there are batch axes.
    """
    (ours, theirs), batch = dimension_numbers
    n = len(ours)
    if any(batch) or tuple(ours) != tuple(range(x.ndim - n, x.ndim)) or tuple(theirs) != tuple(range(n)):
        raise ValueError(f"dimension_numbers={dimension_numbers}; the last axes of x with the first of the kernel")
    if is_kernel(kernel):
        product = lambda x, kernel: _dot(x, kernel, n, precision, preferred_element_type)
        return kernel.dot(x, n, product, preferred_element_type)
    return _dot(x, kernel, n, precision, preferred_element_type)


def whole_kernel(kernel):
    """The array of a kernel that is not used by `dense_dot`: itself, or in float32 what stands in its place."""
    return kernel.array(jnp.float32) if is_kernel(kernel) else kernel


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _dot(x, kernel, n, precision, preferred_element_type):
    dimensions = ((tuple(range(x.ndim - n, x.ndim)), tuple(range(n))), ((), ()))
    return lax.dot_general(x, kernel, dimensions, precision, preferred_element_type)


def _forward(x, kernel, n, precision, preferred_element_type):
    return _dot(x, kernel, n, precision, preferred_element_type), (x, kernel)


def _backward(n, precision, preferred_element_type, saved, g):
    x, kernel = saved
    rows = tuple(range(x.ndim - n))  # of x and g alike
    columns = tuple(range(len(rows), g.ndim)), tuple(range(n, kernel.ndim))
    dx = lax.dot_general(g, kernel, (columns, ((), ())), precision, preferred_element_type)
    dkernel = lax.dot_general(x, g, ((rows, rows), ((), ())), precision, preferred_element_type)
    return dx.astype(x.dtype), dkernel.astype(kernel.dtype)


_dot.defvjp(_forward, _backward)
