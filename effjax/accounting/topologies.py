"""TPU slices that exist only for the compiler, and what a chip of each kind can hold and do."""

import importlib.util
import os
import re

import jax
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache

from effjax.errors import UserError

GIB = 2**30


# Dense bfloat16 FLOP/s of one device (float16 on GPUs without bfloat16 matrix units), as its maker publishes them.
# JAX's `device_kind` begins with one of these; of several that match, the longest speaks.
# TPU v2, v3 and 7x show each core of a chip as a device, the others a whole chip.
PEAK_FLOPS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
    "Tesla T4": 65e12,
    "Tesla V100": 125e12,
    "NVIDIA L4": 121e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA B200": 2250e12,
}

# Bytes that libtpu's compiler lets a program use on one device: what it names when it refuses one that is too large.
HBM_BYTES = {
    "TPU v2": int(7.48 * GIB),
    "TPU v3": int(15.48 * GIB),
    "TPU v4": int(30.75 * GIB),
    "TPU v5 lite": int(15.75 * GIB),
    "TPU v5": int(95.73 * GIB),
    "TPU v6 lite": int(31.24 * GIB),
    "TPU7x": int(94.74 * GIB),
}

# libtpu asks the machine what it is; on one without a TPU these answers let it compile, quietly, in several processes.
_LIBTPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of one device by its `jax.Device.device_kind`; None where it is not known (CPUs)."""
    matches = [kind for kind in PEAK_FLOPS if device_kind.startswith(kind)]
    return PEAK_FLOPS[max(matches, key=len)] if matches else None


def topology_devices(name: str) -> list[jax.Device]:
    """The devices of a TPU slice, for meshes and `jax.jit(...).lower(...).compile()`; they cannot run or hold anything.

    Args:
      name: generation and shape of the slice: "v5e:2x4", "v5e:16x16", "v6e:4x4", "v4:2x2x1", "v5p:4x4x4", ...

    Returns:
      One device per chip (per core on v2, v3 and 7x).

    Raises:
      UserError: libtpu is not installed, or it knows no such slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("compiling for a TPU slice needs libtpu: pip install 'effjax[tpu]'")
    for key, value in _LIBTPU_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    # Without this, libtpu's v4 is a pair of cores; Cloud TPU serves it, as it does v5p, as one device per chip.
    options = {"chip_config_name": "megacore"} if name.startswith("v4") else {}
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"no TPU slice {name!r} ({str(error).splitlines()[0]}); "
            "allowed are a generation and a shape, such as v5e:2x4, v5e:4x4, v5e:16x16, v6e:4x4, v4:2x2x1 or v5p:4x4x4"
        ) from error


class DoesNotFit(Exception):
    """The compiler's refusal of a program that is too large.

    Attributes:
      needed, available: bytes, on one device.
    """

    def __init__(self, needed: int, available: int):
        super().__init__(f"the program needs {needed:,} bytes of device memory, a device has {available:,}")
        self.needed, self.available = needed, available


def compile_for_topology(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles a program lowered for `topology_devices`.

    Raises:
      DoesNotFit: it needs more memory than a device has.
    """
    # JAX's persistent cache would store the program, and then fail to load it for devices that are not there.
    enabled = jax.config.jax_enable_compilation_cache
    _enable_cache(False)
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        sizes = re.search(r"\(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)", str(error))
        if sizes is None:
            raise
        raise DoesNotFit(*map(_parse_bytes, sizes.groups())) from error
    finally:
        _enable_cache(enabled)


def _enable_cache(enabled: bool) -> None:
    jax.config.update("jax_enable_compilation_cache", enabled)
    compilation_cache.reset_cache()  # it reads the setting once only


def _parse_bytes(text: str) -> int:
    """`"15.75G"` in bytes."""
    return int(float(text[:-1]) * 1024 ** ("KMGT".index(text[-1]) + 1))
