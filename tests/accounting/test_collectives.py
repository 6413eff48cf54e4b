"""Collectives of programs whose traffic is known by hand, as the CPU's compiler and the TPU's write them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from effjax.accounting.collectives import Traffic, collectives_of, parse_collectives
from effjax.accounting.topologies import compile_for_topology, topology_devices

pytestmark = pytest.mark.eight_devices

ROWS, WIDTH = 512, 256
LOCAL = ROWS // 2 * WIDTH * 4  # bytes of one device's rows, float32


@pytest.fixture(params=["cpu", "tpu"])
def mesh(request):
    devices = jax.devices() if request.param == "cpu" else topology_devices("v5e:2x4")
    return Mesh(np.array(devices).reshape(2, 4), ("data", "fsdp"))


def collectives(fn, mesh, *args, **options):
    lowered = jax.jit(fn, **options).lower(*args)
    on_tpu = mesh.devices.flat[0].platform == "tpu"
    return collectives_of(compile_for_topology(lowered) if on_tpu else lowered.compile())


def abstract(mesh, shape, *spec, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P(*spec)))


def one_of_each(x):
    scattered = lax.psum_scatter(x, "fsdp", scatter_dimension=0, tiled=True)
    gathered = lax.all_gather(scattered * 2, "fsdp", axis=0, tiled=True)
    exchanged = lax.all_to_all(x, "fsdp", 0, 1, tiled=True)
    return exchanged.sum() + lax.psum(gathered, "data")


def test_each_kind_is_counted_with_its_bytes(mesh):
    fn = jax.shard_map(one_of_each, mesh=mesh, in_specs=P("data", None), out_specs=P(), check_vma=False)
    found = collectives(fn, mesh, abstract(mesh, (ROWS, WIDTH), "data"))
    kinds = ("reduce-scatter", "all-gather", "all-to-all", "all-reduce")
    assert found.by_kind == {kind: Traffic(1, LOCAL) for kind in kinds}
    assert found.total == Traffic(4, 4 * LOCAL)
    assert found.unknown_loops == 0


def test_loops_multiply_and_unknown_ones_are_told(mesh):
    def turn(x, trips):
        return lax.fori_loop(0, trips, lambda i, x: lax.ppermute(x, "fsdp", [(i, (i + 1) % 4) for i in range(4)]), x)

    ring = lambda x, trips: turn(turn(x, 5), trips)
    fn = jax.shard_map(ring, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"), check_vma=False)
    trips = abstract(mesh, (), dtype=jnp.int32)
    found = collectives(fn, mesh, abstract(mesh, (ROWS, WIDTH), "data"), trips)
    assert found.by_kind == {"collective-permute": Traffic(5 + 1, 6 * LOCAL)}
    assert found.unknown_loops == 1


def test_sharded_training_gathers_weights_and_reduces_gradients_in_every_layer(mesh):
    layers, width = 6, 1024

    def loss(weights, x):
        return (lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0] ** 2).mean()

    weights = abstract(mesh, (layers, width, width), None, "fsdp")
    x = abstract(mesh, (width, width), ("data", "fsdp"))
    found = collectives(jax.grad(loss), mesh, weights, x, out_shardings=weights.sharding).by_kind
    assert found["all-gather"].count == 2 * layers  # forward and backward
    assert (
        found["all-reduce"].count + found.get("reduce-scatter", Traffic()).count == 2 * layers
    )  # over fsdp, then data
    assert found["all-gather"].bytes in (2 * layers * width * width * size for size in (2, 4))  # TPUs gather bfloat16


def test_of_a_conditional_the_larger_branch_counts():
    text = """HloModule m

%small (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %r = f32[8]{0} all-reduce(%p), to_apply=%add
}

%large (q: f32[8]) -> f32[32] {
  %q = f32[8]{0} parameter(0)
  %start = (f32[8]{0}, f32[32]{0}) all-gather-start(%q), dimensions={0}
  ROOT %done = f32[32]{0} all-gather-done(%start)
}

ENTRY %main (i: s32[], x: f32[8]) -> f32[32] {
  %i = s32[] parameter(0)
  %x = f32[8]{0} parameter(1)
  ROOT %c = f32[32]{0} conditional(%i, %x, %x), branch_computations={%small, %large}
}
"""
    assert parse_collectives(text).by_kind == {"all-gather": Traffic(1, 128)}
