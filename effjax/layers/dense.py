"""Flax's dense layers and embedding, whose kernels may be integers (`effjax.ops.kernels`); float ones are as ever."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from effjax.ops.dense import dense_dot
from effjax.ops.kernels import is_kernel


def promote_operands(*operands, dtype=None):
    """Flax's `promote_dtype`, which leaves what stands in a kernel's place alone."""
    floats = nn.dtypes.promote_dtype(*[None if is_kernel(operand) else operand for operand in operands], dtype=dtype)
    return [operand if is_kernel(operand) else array for operand, array in zip(operands, floats)]


class Compressible:
    """A module with one kernel, which may be quantised or pruned along its contracted axes.

    Attributes:
      kernel_name: of the parameter.
      contracted: axes of the kernel that share a scale; of an embedding the last one.
    """

    kernel_name = "kernel"
    contracted = (0,)

    def param(self, name, init_fn, *args, **kwargs):
        """As of `nn.Module`; what stands in a kernel's place has no shape to check."""
        if name == self.kernel_name and is_kernel(kernel := self.get_variable("params", name)):
            return kernel
        return super().param(name, init_fn, *args, **kwargs)


class Dense(Compressible, nn.Dense):
    """`nn.Dense` with the product of `effjax.ops.dense`."""

    dot_general: Callable[..., Any] | None = dense_dot
    promote_dtype: Callable[..., Any] = promote_operands


class DenseGeneral(Compressible, nn.DenseGeneral):
    """`nn.DenseGeneral` with the product of `effjax.ops.dense`."""

    dot_general: Callable[..., Any] | None = dense_dot
    promote_dtype: Callable[..., Any] = promote_operands

    @property
    def contracted(self):
        """The first axes of the kernel."""
        return tuple(range(1 if isinstance(self.axis, int) else len(self.axis)))


class Embed(Compressible, nn.Embed):
    """`nn.Embed`; each row of integers has a scale."""

    kernel_name = "embedding"
    contracted = (1,)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        if is_kernel(self.embedding):
            return self.embedding.rows(jnp.asarray(inputs), self.dtype or jnp.float32)
        return super().__call__(inputs)
