"""Modes of quantization: what each does to a kernel, to parameters, and to their size."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from effjax.compression.kernels import Kernel, map_kernels, path_of
from effjax.errors import UserError
from effjax.ops.dense import dense_dot
from effjax.ops.kernels import QuantizedKernel, RoundedKernel, Scheme, is_kernel
from effjax.ops.quantize import sqnr

MODES = {  # bits of the weights, and what becomes of the activations
    "int8_weight_only": (8, "float"),
    "int4_weight_only": (4, "float"),
    "int8_dynamic": (8, "dynamic"),
    "int8_static": (8, "static"),
}


def check_mode(mode: str) -> None:
    """Raises UserError for a mode that does not exist, or whose product this platform gets wrong or refuses."""
    if mode not in MODES:
        raise UserError(f"quantization mode {mode!r}; one of {', '.join(MODES)} is allowed")
    bits, activations = MODES[mode]
    x, kernel = np.arange(-8.0, 8.0, dtype=np.float32).reshape(2, 8), np.eye(8, dtype=np.float32)
    scheme = Scheme((0,), bits, group=8, activations=activations)
    dimensions = ((1,), (0,)), ((), ())
    try:
        quantized = QuantizedKernel.of(jnp.asarray(kernel), scheme, jnp.float32(8 / 127))
        y = np.asarray(jax.jit(lambda x, kernel: dense_dot(x, kernel, dimensions))(x, quantized))
        problem = None if np.abs(y - x).max() <= 0.1 else "a product comes out wrong"
    except Exception as error:  # whatever a platform's compiler raises
        problem = " ".join(str(error).split())[:200]
    if problem:
        raise UserError(f"mode {mode} cannot run on platform {jax.default_backend()!r}: {problem}")


def scheme_of(kernel: Kernel, mode: str, group: int) -> Scheme:
    """How a mode quantises a kernel: an embedding, whose rows are looked up, in 8 bits always."""
    bits, activations = MODES[mode]
    if kernel.is_embedding:
        return Scheme(kernel.axes)
    return Scheme(kernel.axes, bits, group, activations)


def quantize_params(params, kernels: dict[str, Kernel], mode: str, group: int, activation_scales=None):
    """Parameters with integers in place of kernels; traceable.

    Args:
      params: nested dict of float arrays.
      kernels: those to quantise, from `effjax.compression.kernels.select`.
      mode: a name of `MODES`.
      group: values that share a scale, with 4 bits.
      activation_scales: of "int8_static": `{path: [layers] or scalar}`; None: ones, where only shapes matter.
    """

    def small(leaf, kernel):
        scheme, scale = scheme_of(kernel, mode, group), None
        if scheme.activations == "static":
            scale = jnp.ones((kernel.layers,) if kernel.layers else ())
            scale = scale if activation_scales is None else jnp.asarray(activation_scales[kernel.path], jnp.float32)
        quantize = lambda leaf, scale: QuantizedKernel.of(leaf, scheme, scale)
        return kernel.each_layer(quantize)(leaf, scale)

    return map_kernels(params, small, kernels)


def round_params(params, kernels: dict[str, Kernel], mode: str, group: int):
    """Parameters whose kernels are rounded when they are used, with straight-through gradients; those that are already
    stay as they are."""

    def rounded(leaf, kernel):
        return leaf if is_kernel(leaf) else RoundedKernel(leaf, scheme_of(kernel, mode, group))

    return map_kernels(params, rounded, kernels)


def kernel_losses(params, quantized, kernels: dict[str, Kernel]) -> dict[str, float]:
    """Signal to quantization noise of every kernel of every layer in decibels, the worst first.

    Args:
      params: float parameters.
      quantized: the same from `quantize_params`.
      kernels: those quantised.

    Returns:
      `{"stack/period/mixing_0/mixer/query/kernel[3]": 41.2, …}`, the layer in brackets where there are several.
    """
    originals = {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    losses = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(quantized, is_leaf=is_kernel):
        kernel = kernels.get(path_of(path))
        if kernel is None:
            continue
        axes = tuple(range(len(kernel.shape)))
        lost = kernel.each_layer(lambda x, q, axes=axes: sqnr(x, q.array(jnp.float32), axes))
        for layer, value in enumerate(np.atleast_1d(jax.jit(lost)(originals[kernel.path], leaf))):
            losses[f"{kernel.path}[{layer}]" if kernel.layers > 1 else kernel.path] = float(value)
    return dict(sorted(losses.items(), key=lambda item: item[1]))


def nbytes(tree) -> int:
    """Bytes of all arrays."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def quantized_bytes(params, kernels: dict[str, Kernel], mode: str, group: int) -> int:
    """What quantised parameters should take: one byte a code, or half a byte with 4 bits (each group of contracted
    values filled up), two for each scale, four for each static scale of activations, the rest as it is.

    Args:
      params: float parameters, arrays or shapes.
      kernels, mode, group: as of `quantize_params`.
    """
    total = nbytes(params)
    for kernel in kernels.values():
        layers, scheme = max(kernel.layers, 1), scheme_of(kernel, mode, group)
        size = math.prod(kernel.shape)
        shared = math.prod(kernel.shape[axis] for axis in kernel.axes)
        columns = size // shared
        if scheme.bits == 4:
            groups = columns * -(-shared // group)
            small = groups * (group // 2 + 2)
        else:
            small = size + 2 * columns
        total += layers * (small + 4 * (scheme.activations == "static") - 4 * size)
    return total
