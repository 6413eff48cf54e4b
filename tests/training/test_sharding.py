"""Meshes and rules: where arrays go, and that it does not change what is computed."""

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

from effjax.data.placement import reader_share
from effjax.errors import UserError
from effjax.training.distributed import global_batches
from effjax.training.optimizers import make_optimizer
from effjax.training.sharding import batch_shardings, make_mesh, state_shardings
from effjax.training.state import abstract_state, carry_batch_axes, initial_state
from effjax.training.step import jit_train_step
from tests.training.fake_task import FakeTask, fake_config

pytestmark = pytest.mark.eight_devices

RULES = (("table", ("fsdp", "tensor")), ("kernel", ("tensor", "fsdp")))


def mesh_of(data=-1, fsdp=1, tensor=1, sequence=1, devices=None):
    sizes = dict(data=data, fsdp=fsdp, tensor=tensor, sequence=sequence)
    return make_mesh(sizes, jax.devices() if devices is None else devices)


def test_a_mesh_takes_what_remains_and_leaves_sharding_to_the_compiler():
    mesh = mesh_of(fsdp=2, tensor=2)
    assert dict(mesh.shape) == dict(data=2, fsdp=2, tensor=2, sequence=1)
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert [device.id for device in mesh.devices.flat] == list(range(8))


@pytest.mark.parametrize(
    "sizes", [dict(data=3), dict(data=4), dict(fsdp=16), dict(fsdp=-1), dict(tensor=0), dict(data=-2)]
)
def test_a_mesh_that_does_not_fit_is_refused(sizes):
    with pytest.raises(UserError, match=r"config\.mesh: "):
        mesh_of(**sizes)


def test_statistics_follow_their_parameters():
    config = fake_config(optimizer__name="adam")
    state = abstract_state(FakeTask(config), make_optimizer(config), config)
    shardings = state_shardings(state, mesh_of(fsdp=2, tensor=2), RULES)
    table, kernel = PartitionSpec("fsdp", "tensor"), PartitionSpec("tensor", "fsdp")
    assert shardings.params["embedding"]["table"].spec == table and shardings.params["out"]["kernel"].spec == kernel
    assert shardings.params["out"]["bias"].spec == shardings.key.spec == PartitionSpec()
    for name in ("mu", "nu"):
        moments = optax.tree.get(shardings.opt_state, name)
        assert moments["embedding"]["table"].spec == table and moments["out"]["kernel"].spec == kernel


def test_factored_statistics_lose_the_dimension_they_sum_over():
    params = {
        "scan": {"kernel": jax.ShapeDtypeStruct((3, 256, 512), "float32")},
        "square": jax.ShapeDtypeStruct((256, 256), "float32"),
    }
    optimizer = optax.adafactor(0.1)
    state = abstract_state(FakeTask(fake_config()), make_optimizer(fake_config()), fake_config())
    state = state.replace(params=params, opt_state=jax.eval_shape(optimizer.init, params))
    shardings = state_shardings(state, mesh_of(fsdp=2, tensor=2), ((".", ("fsdp", "tensor")),))
    assert shardings.params["scan"]["kernel"].spec == PartitionSpec(None, "fsdp", "tensor")
    rows, columns = (optax.tree.get(shardings.opt_state, name)["scan"]["kernel"] for name in ("v_row", "v_col"))
    assert {rows.spec, columns.spec} == {PartitionSpec(None, "fsdp"), PartitionSpec(None, "tensor")}
    assert optax.tree.get(shardings.opt_state, "v_row")["square"].spec == PartitionSpec()  # either axis: left whole


def test_the_first_rule_that_matches_holds():
    state = abstract_state(FakeTask(fake_config()), make_optimizer(fake_config()), fake_config())
    shardings = state_shardings(
        state, mesh_of(fsdp=8), (("out/kernel", ()), ("out", ("fsdp",)), (".*", (None, "fsdp")))
    )
    assert shardings.params["out"]["kernel"].spec == PartitionSpec(None, None)
    assert shardings.params["out"]["bias"].spec == PartitionSpec("fsdp")
    assert shardings.params["embedding"]["table"].spec == PartitionSpec(None, "fsdp")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (("model",), "names the axis 'model'"),
        ((None, None, "fsdp"), "more entries"),
        ((("data", "tensor", "fsdp"),), "over 24"),
    ],
)
def test_rules_that_cannot_hold_name_the_parameter(spec, message):
    state = abstract_state(FakeTask(fake_config()), make_optimizer(fake_config()), fake_config())
    mesh = mesh_of(data=2, fsdp=2, tensor=2)
    if "over" in message:
        mesh = jax.sharding.AbstractMesh((3, 2, 4, 1), mesh.axis_names)
    with pytest.raises(UserError, match=rf"parameter embedding/table of shape \(32, 16\).*{message}"):
        state_shardings(state, mesh, (("table", spec),))


def test_batches_that_the_mesh_does_not_divide_name_the_field():
    batch = FakeTask(fake_config(batch_size=12)).abstract_batch()
    with pytest.raises(UserError, match=r"config\.batch_size=12 cannot be split over 8 devices"):
        batch_shardings(batch, mesh_of())
    with pytest.raises(UserError, match=r"config\.data\.length=18 cannot be split over 4 devices"):
        batch_shardings(FakeTask(fake_config(data__length=18)).abstract_batch(), mesh_of(sequence=4))


@pytest.mark.parametrize("sizes", [dict(), dict(fsdp=2, tensor=2), dict(fsdp=2, tensor=2, sequence=2)])
def test_eight_devices_compute_what_one_does(sizes):
    config = fake_config(model__carry=True, accumulate=1 if not sizes else 2, sharding=RULES)

    def train(mesh):
        task, optimizer = FakeTask(config), make_optimizer(config)
        step, abstract, batch = jit_train_step(task, optimizer, config, mesh)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        init = jax.jit(lambda key: initial_state(task, optimizer, config, key), out_shardings=shardings)
        state = init(jax.random.key(0))
        batches = global_batches(task.train_reader(*reader_share(mesh)), 0, batch)
        for _ in range(3):
            state, metrics = step(state, next(batches))
        return jax.device_get((state.params, state.carry, metrics))

    one, eight = train(mesh_of(devices=jax.devices()[:1])), train(mesh_of(**sizes))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight)):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(eight[2]["nats"], one[2]["nats"], rtol=1e-6)


def test_the_carry_is_split_along_its_batch():
    config = fake_config(model__carry=True)
    task = FakeTask(config)
    state = abstract_state(task, make_optimizer(config), config)
    shardings = state_shardings(state, mesh_of(), (), carry_batch_axes(task, config))
    assert shardings.carry["mean"].spec == PartitionSpec(None, None, ("data", "fsdp"), None)
    assert shardings.carry["n"].spec == PartitionSpec(None)
