"""Where arrays live: a mesh of devices, and rules from the paths of parameters to its axes."""

import math
import re

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from effjax.data.placement import BATCH
from effjax.errors import UserError

AXES = ("data", "fsdp", "tensor", "sequence")


def make_mesh(sizes, devices) -> Mesh:
    """The mesh with axes data, fsdp, tensor and sequence.

    Devices stand in the order of their processes, so that each process reads one stretch of every batch and row r of a
    batch, or of a carried state, is the same example on any number of processes.

    Args:
      sizes: `config.mesh`: devices along each axis; at most one of them is -1 for all that remain.
      devices: `jax.devices()`, or those of a described topology.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    shape = [sizes[axis] for axis in AXES]
    named = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, shape))
    known = math.prod(size for size in shape if size != -1)
    if shape.count(-1) > 1 or any(size < 1 and size != -1 for size in shape):
        raise UserError(f"config.mesh: {named}; sizes of 1 or more are allowed, and one -1")
    if known > len(devices) or len(devices) % known or (-1 not in shape and known != len(devices)):
        raise UserError(f"config.mesh: {named} does not fit the {len(devices)} devices there are")
    shape = [len(devices) // known if size == -1 else size for size in shape]
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.asarray(ordered).reshape(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def state_shardings(state, mesh: Mesh, rules, carry_axes=None):
    """Shardings of a `TrainState`.

    A rule `(regex, spec)` gives the mesh axes of the trailing dimensions of every parameter whose path, such as
    `decoder/embedding/embedding`, the regex finds; leading dimensions, such as the scan over layers, stay whole, as
    does a parameter without a rule. An optimizer statistic follows the parameter it belongs to (a factored one without
    the dimension it sums over); the carry is split along the batch; all else is on every device.

    Args:
      state: an abstract `TrainState`.
      mesh: its axes are data, fsdp, tensor and sequence.
      rules: sequence of (regex, spec); spec is a tuple of axis names, tuples of them, or None. The first match holds.
      carry_axes: the batch axis of each leaf of `state.carry` (see `state.carry_batch_axes`); None: not split.

    Returns:
      A `TrainState` of NamedSharding.

    Raises:
      UserError: a rule names an unknown axis, has more entries than the parameter dimensions, or does not divide one.
    """
    shapes = {_path_string(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)}
    specs = {path: _parameter_spec(path, shape, mesh, rules) for path, shape in shapes.items()}
    replicated = NamedSharding(mesh, PartitionSpec())

    def parameter(path, _):
        return NamedSharding(mesh, specs[_path_string(path)])

    def statistic(path, leaf):
        parts = _path_string(path).split("/")
        owner = next((p for p in ("/".join(parts[i:]) for i in range(len(parts))) if p in specs), None)
        if owner is None:
            return replicated
        return NamedSharding(mesh, _statistic_spec(leaf.shape, shapes[owner], specs[owner]))

    def carried(leaf, axis):
        return NamedSharding(mesh, PartitionSpec(*[BATCH if i == axis else None for i in range(leaf.ndim)]))

    shardings = jax.tree.map(lambda _: replicated, state)
    return shardings.replace(
        params=jax.tree_util.tree_map_with_path(parameter, state.params),
        opt_state=jax.tree_util.tree_map_with_path(statistic, state.opt_state),
        carry=shardings.carry if carry_axes is None else jax.tree.map(carried, state.carry, carry_axes),
    )


def batch_shardings(batch, mesh: Mesh) -> dict[str, NamedSharding]:
    """Shardings of a batch: rows over data and fsdp, length over sequence.

    Args:
      batch: dict of arrays or shapes, `[B]` or `[B, T, …]`.

    Raises:
      UserError: the mesh does not divide the rows or the length.
    """
    shardings = {}
    for name, array in batch.items():
        spec = PartitionSpec(BATCH, "sequence") if len(array.shape) > 1 else PartitionSpec(BATCH)
        for size, axes, field in zip(array.shape, spec, ("batch_size", "data.length")):
            ways = _ways(mesh, axes)
            if size % ways:
                raise UserError(f"config.{field}={size} cannot be split over {ways} devices; see config.mesh")
        shardings[name] = NamedSharding(mesh, spec)
    return shardings


def _parameter_spec(path: str, shape, mesh: Mesh, rules) -> PartitionSpec:
    for pattern, spec in rules:
        if not re.search(pattern, path):
            continue
        where = f"config.sharding: rule ({pattern!r}, {spec!r}) for parameter {path} of shape {shape}"
        if len(spec) > len(shape):
            raise UserError(f"{where} has more entries than there are dimensions")
        for size, axes in zip(shape[len(shape) - len(spec) :], spec):
            for axis in (axes,) if isinstance(axes, str) else axes or ():
                if axis not in AXES:
                    raise UserError(f"{where} names the axis {axis!r}; {', '.join(AXES)} are allowed")
            if size % _ways(mesh, axes):
                raise UserError(f"{where} splits a dimension of {size} over {_ways(mesh, axes)} devices")
        return PartitionSpec(*[None] * (len(shape) - len(spec)), *spec)
    return PartitionSpec()


def _statistic_spec(shape, parameter_shape, spec: PartitionSpec) -> PartitionSpec:
    """The spec of an optimizer statistic: its parameter's, without the one dimension that it lacks."""
    if shape == parameter_shape:
        return spec
    entries = (*spec, *[None] * (len(parameter_shape) - len(spec)))
    dropped = [i for i in range(len(entries)) if parameter_shape[:i] + parameter_shape[i + 1 :] == shape]
    candidates = {entries[:i] + entries[i + 1 :] for i in dropped}
    return PartitionSpec(*candidates.pop()) if len(candidates) == 1 else PartitionSpec()


def _ways(mesh: Mesh, axes) -> int:
    """Into how many pieces an entry of a spec splits a dimension."""
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))


def _path_string(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
