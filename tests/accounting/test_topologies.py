"""Slices for the compiler: their devices, what a chip holds, and what happens when a program does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from effjax.accounting import topologies
from effjax.accounting.memory import memory_of
from effjax.accounting.topologies import (
    HBM_BYTES,
    DoesNotFit,
    compile_for_topology,
    peak_flops,
    topology_devices,
)
from effjax.errors import UserError


@pytest.mark.parametrize(
    ("name", "chips", "kind"),
    [
        ("v5e:2x4", 8, "TPU v5 lite"),
        ("v5e:4x4", 16, "TPU v5 lite"),
        ("v5e:16x16", 256, "TPU v5 lite"),
        ("v4:2x2x1", 4, "TPU v4"),
        ("v5p:4x4x4", 64, "TPU v5"),
        ("v6e:4x4", 16, "TPU v6 lite"),
    ],
)
def test_one_device_a_chip_with_known_peak_and_memory(name, chips, kind):
    devices = topology_devices(name)
    assert (len(devices), devices[0].platform, devices[0].device_kind) == (chips, "tpu", kind)
    assert peak_flops(kind) > 1e14
    assert HBM_BYTES[kind] > 15 * 2**30


def test_peaks_by_the_longest_name():
    assert peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("TPU v5") == peak_flops("TPU v5p") == 459e12
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("cpu") is None


def large_product(rows):
    mesh = Mesh(np.array(topology_devices("v5e:2x4")), ("data",))
    shape = jax.ShapeDtypeStruct((rows, 2**14), jnp.bfloat16, sharding=NamedSharding(mesh, P("data")))
    return jax.jit(lambda x: jnp.sin(x) @ x.T).lower(shape)


def test_a_sharded_program_compiles_without_a_device():
    for _ in range(2):  # the second time, the persistent cache must not get in the way
        memory = memory_of(compile_for_topology(large_product(2**10)))
        assert memory.arguments == 2**10 * 2**14 * 2 // 8  # one device's share


def test_a_program_too_large_is_refused_with_both_sizes():
    with pytest.raises(DoesNotFit) as refusal:
        compile_for_topology(large_product(2**19))
    assert refusal.value.needed > refusal.value.available == HBM_BYTES["TPU v5 lite"]


def test_unknown_slices_and_missing_libtpu_are_one_line(monkeypatch):
    for name in ("v5e:3x5", "v99:2x2", "nonsense"):
        with pytest.raises(UserError, match="v5e:4x4"):
            topology_devices(name)
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'effjax\[tpu\]'"):
        topology_devices("v5e:2x4")
