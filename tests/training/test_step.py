"""The step: what accumulation, a bad batch and a repeated call do, to the bit."""

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from effjax.training.optimizers import make_optimizer
from effjax.training.sharding import make_mesh
from effjax.training.state import abstract_state, carry_batch_axes, initial_state
from effjax.training.step import jit_train_step, make_train_step
from tests.training.fake_task import FakeTask, fake_config


def trainer(config, optimizer=None):
    """A function `(n_steps, state=None) -> (state, metrics of the last step)` that compiles the step once."""
    task, optimizer = FakeTask(config), optimizer or make_optimizer(config)
    init = jax.jit(lambda key: initial_state(task, optimizer, config, key))
    step = jax.jit(make_train_step(task, optimizer, config))

    def run(n_steps, state=None):
        state, metrics = init(jax.random.key(0)) if state is None else state, None
        for _, batch in zip(range(n_steps), task.train_reader(0, 1).iterate(int(state.step))):
            state, metrics = step(state, batch)
        return state, metrics

    return run


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("pieces", [2, 8])
def test_accumulation_equals_one_big_batch(pieces):
    options = dict(model__dropout=0.0, model__carry=True)
    sgd = optax.sgd(lambda count: 0.5)
    whole, whole_metrics = trainer(fake_config(**options), sgd)(3)
    split, split_metrics = trainer(fake_config(accumulate=pieces, **options), sgd)(3)
    for a, b in zip(jax.tree.leaves((whole.params, whole_metrics)), jax.tree.leaves((split.params, split_metrics))):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-6)
    # Row r is row r // pieces of piece r % pieces.
    rows = split.carry["mean"].transpose(1, 2, 0, 3).reshape(2, 8, -1)
    np.testing.assert_allclose(rows, whole.carry["mean"][0], rtol=1e-5, atol=1e-6)
    assert carry_batch_axes(FakeTask(fake_config(**options)), fake_config(**options)) == {"mean": 2, "n": -1}


def test_a_bad_step_changes_nothing_but_the_counts():
    run = trainer(fake_config(model__bad_steps=(3, 4), model__carry=True))
    before, _ = run(2)
    bad, metrics = run(2, before)
    for name in ("params", "opt_state", "carry"):
        assert_same(getattr(before, name), getattr(bad, name))
    assert (int(bad.step), int(bad.skipped), int(bad.skipped_in_a_row)) == (4, 2, 2)
    assert all(float(x) == 0.0 for x in jax.tree.leaves(metrics))
    after, metrics = run(1, bad)
    assert (int(after.step), int(after.skipped), int(after.skipped_in_a_row)) == (5, 2, 0)
    assert float(metrics["nats"][1]) > 0 and not np.array_equal(after.params["out"]["bias"], bad.params["out"]["bias"])


def test_a_bad_piece_spoils_the_whole_step():
    run = trainer(fake_config(model__bad_steps=(1,), accumulate=2))
    assert_same(run(1)[0].params, run(0)[0].params)


def test_after_too_many_bad_steps_good_ones_are_skipped_too():
    run = trainer(fake_config(model__bad_steps=(1, 2), max_bad_steps=2))
    bad, _ = run(2)
    later, _ = run(2, bad)
    assert int(later.skipped_in_a_row) == 4
    assert_same(bad.params, later.params)


def test_a_step_is_a_function_of_state_and_batch_and_dropout_changes_with_it():
    config = fake_config(model__dropout=0.5)
    run = trainer(config)
    assert_same(run(3)[0].params, run(3)[0].params)
    start, _ = run(0)
    batch = next(FakeTask(config).train_reader(0, 1).iterate(0))
    step = jax.jit(make_train_step(FakeTask(config), make_optimizer(config), config))
    losses = {float(step(start.replace(step=np.int32(t)), batch)[1]["nats"][0]) for t in (0, 1, 2)}
    assert len(losses) == 3


def test_the_abstract_state_is_the_state():
    config = fake_config(model__carry=True, accumulate=2)
    optimizer = make_optimizer(config)
    state = initial_state(FakeTask(config), optimizer, config, jax.random.key(0))
    described = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert described == jax.tree.map(lambda x: (x.shape, x.dtype), abstract_state(FakeTask(config), optimizer, config))


@pytest.mark.eight_devices
def test_on_a_mesh_the_state_stays_where_it_is_and_metrics_are_everywhere():
    config = fake_config(sharding=(("table", ("fsdp",)),))
    mesh = make_mesh(dict(data=-1, fsdp=2, tensor=1, sequence=1), jax.devices())
    step, state, batch = jit_train_step(FakeTask(config), make_optimizer(config), config, mesh)
    assert state.params["embedding"]["table"].sharding.spec == PartitionSpec(None, "fsdp")
    assert batch["inputs"].sharding.spec == PartitionSpec(("data", "fsdp"), "sequence")
    compiled = step.lower(state, batch).compile()
    new_state, metrics = compiled.output_shardings
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == new_state
    assert all(sharding.is_fully_replicated for sharding in jax.tree.leaves(metrics))
    aliased, held = (getattr(compiled.memory_analysis(), f"{kind}_size_in_bytes") for kind in ("alias", "argument"))
    assert aliased > 0.5 * held  # donated
