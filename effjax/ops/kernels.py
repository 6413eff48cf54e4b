"""What may stand in the place of a dense layer's kernel: integers, floats rounded on the way, floats observed.

Each is a pytree with the methods `dot`, `array` and `rows`, which `effjax.ops.dense` calls: parameters say how they are
multiplied, and so scanned and reversible stacks, whole models and incremental decoding need no other code for it. All
arrays may have a leading axis over layers outside of a scan, none inside.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from effjax.ops.quantize import group_rows, pack_pairs, quantize, round_through, scale_of, unpack_pairs

ACTIVATIONS = ("float", "dynamic", "static")


@dataclass(frozen=True)
class Scheme:
    """How a kernel is quantised.

    Attributes:
      axes: those of the kernel that share a scale, the contracted ones; of an embedding the last one.
      bits: 8 or 4.
      group: with 4 bits, values along the contracted axes, taken as one, that share a scale.
      activations: "float", "dynamic" (8 bits, a scale for each row as it comes) or "static" (8 bits, a calibrated one).
    """

    axes: tuple[int, ...]
    bits: int = 8
    group: int = 32
    activations: str = "float"

    def __post_init__(self):
        if self.bits not in (4, 8) or self.activations not in ACTIVATIONS:
            raise ValueError(f"bits={self.bits}, activations={self.activations!r}; 4 or 8, one of {ACTIVATIONS}")
        if self.bits == 4 and (self.activations != "float" or self.axes != tuple(range(len(self.axes)))):
            raise ValueError(
                f"bits=4 with activations={self.activations!r}, axes={self.axes}: weights only, axes first"
            )
        if self.group < 2 or self.group % 2:
            raise ValueError(f"group={self.group}; an even number from 2 on is allowed")


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["codes", "scale", "activation_scale"],
    meta_fields=["scheme", "shape"],
)
@dataclass
class QuantizedKernel:
    """A kernel in integers.

    Attributes:
      codes: int8 of the kernel's shape; of 4 bits uint8 `[G, group / 2, *out]`.
      scale: bfloat16, of the kernel's shape with 1 in place of `scheme.axes`; of 4 bits `[G, 1, *out]`.
      activation_scale: scalar, of "static" only, else None.
      scheme, shape: how, and the kernel's shape (of one layer).
    """

    codes: Any
    scale: Any
    activation_scale: Any
    scheme: Scheme
    shape: tuple[int, ...]

    @classmethod
    def of(cls, kernel: jax.Array, scheme: Scheme, activation_scale: jax.Array | None = None) -> "QuantizedKernel":
        """The integers of one layer's kernel, `activation_scale` being that of its inputs."""
        if scheme.bits == 4:
            rows = kernel.reshape(-1, *kernel.shape[len(scheme.axes) :])
            codes, scale = quantize(group_rows(rows, scheme.group), bits=4, axes=(1,))
            codes = pack_pairs(codes)
        else:
            codes, scale = quantize(kernel, axes=scheme.axes)
        static = activation_scale if scheme.activations == "static" else None
        return cls(codes, scale.astype(jnp.bfloat16), static, scheme, kernel.shape)

    def array(self, dtype: Any) -> jax.Array:
        """The kernel, `[*in, *out]`."""
        scale = self.scale.astype(jnp.float32)
        if self.scheme.bits == 8:
            return (self.codes * scale).astype(dtype)
        rows = (unpack_pairs(self.codes) * scale).astype(dtype)
        rows = rows.reshape(-1, *rows.shape[2:])
        n_rows = 1
        for axis in self.scheme.axes:
            n_rows *= self.shape[axis]
        return rows[:n_rows].reshape(self.shape)

    def rows(self, ids: jax.Array, dtype: Any) -> jax.Array:
        """Rows of an embedding, of which no others are multiplied out."""
        return (self.codes[ids] * self.scale[ids].astype(jnp.float32)).astype(dtype)

    def dot(self, x: jax.Array, n: int, product: Callable, dtype: Any) -> jax.Array:
        """`x` with its last n axes contracted: `product` of floats, or of integers accumulated in int32."""
        if self.scheme.bits == 4:
            return product(x, self.array(x.dtype))
        out = x.ndim - n, self.codes.ndim - n
        scale = self.scale.astype(jnp.float32).reshape(self.scale.shape[n:])
        if self.scheme.activations == "float":  # whole numbers up to 127 are exact in bfloat16 as well
            y = product(x, self.codes.astype(x.dtype))
            return (y * scale).astype(dtype or x.dtype)
        axes = tuple(range(out[0], x.ndim))
        codes, row_scale = quantize(x, axes=axes, scale=self.activation_scale)
        dimensions = (axes, tuple(range(n))), ((), ())
        y = lax.dot_general(codes, self.codes, dimensions, preferred_element_type=jnp.int32)
        if row_scale.ndim:
            row_scale = row_scale.reshape(*x.shape[: out[0]], *[1] * out[1])
        row_scale = row_scale.astype(jnp.promote_types(x.dtype, scale.dtype))  # no narrower than the inputs are
        return (y * (row_scale * scale)).astype(dtype or x.dtype)


@partial(jax.tree_util.register_dataclass, data_fields=["kernel"], meta_fields=["scheme"])
@dataclass
class RoundedKernel:
    """A float kernel that is rounded as `scheme` says whenever it is used, and its inputs with it, with
    straight-through gradients: what quantization-aware training trains.

    Attributes:
      kernel: `[*in, *out]`.
      scheme: "static" activations are those of "dynamic".
    """

    kernel: Any
    scheme: Scheme

    def array(self, dtype: Any) -> jax.Array:
        """The kernel, rounded."""
        scheme, kernel = self.scheme, self.kernel
        if scheme.bits == 8:
            return round_through(kernel, scale_of(kernel, axes=scheme.axes), 8).astype(dtype)
        rows = kernel.reshape(-1, *kernel.shape[len(scheme.axes) :])
        grouped = group_rows(rows, scheme.group)
        rounded = round_through(grouped, scale_of(grouped, bits=4, axes=(1,)), 4)
        return rounded.reshape(-1, *rows.shape[1:])[: rows.shape[0]].reshape(kernel.shape).astype(dtype)

    def rows(self, ids: jax.Array, dtype: Any) -> jax.Array:
        """Rows of an embedding."""
        return self.array(dtype)[ids]

    def dot(self, x: jax.Array, n: int, product: Callable, dtype: Any) -> jax.Array:
        """`x` with its last n axes contracted."""
        del dtype
        if self.scheme.activations != "float":
            x = round_through(x, scale_of(x, axes=tuple(range(x.ndim - n, x.ndim))), 8)
        return product(x, self.array(x.dtype))


@partial(jax.tree_util.register_dataclass, data_fields=["kernel", "number"], meta_fields=["record"])
@dataclass
class ObservedKernel:
    """A float kernel that reports the largest `|x|` of its inputs to the host, for calibration.

    Attributes:
      kernel: `[*in, *out]`.
      number: scalar, which kernel of which layer this is.
      record: called with `number` and the largest value, in any order.
    """

    kernel: Any
    number: Any
    record: Callable[[Any, Any], None]

    def array(self, dtype: Any) -> jax.Array:
        """The kernel."""
        return self.kernel.astype(dtype)

    def rows(self, ids: jax.Array, dtype: Any) -> jax.Array:
        """Rows of an embedding."""
        return self.kernel[ids].astype(dtype)

    def dot(self, x: jax.Array, n: int, product: Callable, dtype: Any) -> jax.Array:
        """`x` with its last n axes contracted."""
        del n, dtype
        jax.debug.callback(self.record, self.number, jnp.max(jnp.abs(x)).astype(jnp.float32))
        return product(x, self.kernel.astype(x.dtype))


KINDS = (QuantizedKernel, RoundedKernel, ObservedKernel)


def is_kernel(leaf: Any) -> bool:
    """Whether this stands in the place of a kernel."""
    return isinstance(leaf, KINDS)
