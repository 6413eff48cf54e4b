"""The largest activations that training data show each kernel, from which static scales are made."""

import itertools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from effjax.compression.kernels import Kernel, map_kernels
from effjax.errors import UserError
from effjax.ops.kernels import ObservedKernel
from effjax.ops.quantize import largest_code


def calibrate(loss, params, batches: Iterable, kernels: dict[str, Kernel], carry=()) -> dict[str, np.ndarray]:
    """`max |x| / 127` of the inputs of every kernel over the batches.

    Args:
      loss: `loss(params, batch, carry) -> (loss, (metrics, carry))`, as of a task.
      params: float parameters.
      batches: of training data; scales from test data would have seen what they are scored on.
      kernels: those to watch.
      carry: before the first batch.

    Returns:
      `{path: scales}`, `[layers]` or scalar. 1 where nothing but zeros came by.

    Raises:
      UserError: there are no batches.
    """
    numbers, total = {}, 0
    for path, kernel in kernels.items():
        numbers[path] = np.arange(total, total + max(kernel.layers, 1), dtype=np.int32)
        total += max(kernel.layers, 1)
    largest = np.zeros(total, np.float32)

    def record(number, value):
        largest[number] = max(largest[number], value)

    def number_of(kernel):
        return jnp.asarray(numbers[kernel.path] if kernel.layers else numbers[kernel.path][0])

    watched = map_kernels(params, lambda leaf, kernel: ObservedKernel(leaf, number_of(kernel), record), kernels)
    step, seen = jax.jit(lambda params, batch, carry: loss(params, batch, carry)[1][1]), 0
    for batch in batches:
        carry, seen = step(watched, batch, carry), seen + 1
    jax.effects_barrier()
    if not seen:
        raise UserError("the calibration data is empty: static scales need at least one batch of training data")
    scales = np.where(largest > 0, largest / largest_code(8), 1.0).astype(np.float32)
    return {path: scales[own] if kernels[path].layers else scales[own[0]] for path, own in numbers.items()}


def training_batches(task, count: int) -> list:
    """The first batches that training would see.

    Raises:
      UserError: fewer than one is asked for.
    """
    if count < 1:
        raise UserError(f"calibration_batches={count}: the calibration data is empty; 1 or more is allowed")
    return list(itertools.islice(iter(task.train_reader(0, 1).iterate(0)), count))
