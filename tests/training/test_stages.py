"""Training in stages: what each one computes with, what it takes over, and that an interruption leaves no trace."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from effjax.errors import UserError
from effjax.training.leg import plan_legs
from effjax.training.optimizers import scheduled_updates
from effjax.training.sharding import make_mesh
from effjax.training.stages import stage_of_step, stages_of
from tests.training.fake_task import FakeTask, Reader, fake_config
from tests.training.test_loop import rows_of, run
from tests.training.test_outgrown import Growing

LONGER = (("batch_size", 16), ("data.length", 32), ("optimizer.learning_rate", 0.01), ("optimizer.warmup", 4))
STAGES = ((5, ()), (4, LONGER), (3, (("data.length", 64), ("optimizer.learning_rate", 0.005))))
OPTIONS = dict(stages=STAGES, model__carry=True, model__bad_steps=(2,), checkpoint__every=4, eval__every=4)
ONE_DEVICE = dict(data=1, fsdp=1, tensor=1, sequence=1)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    return workdir, run(workdir, **OPTIONS)


def test_stages_follow_each_other_and_read_on():
    stages = stages_of(fake_config(**OPTIONS))
    assert [(stage.number, stage.start, stage.end) for stage in stages] == [(1, 0, 5), (2, 5, 9), (3, 9, 12)]
    assert [stage.config.batch_size for stage in stages] == [8, 16, 8]
    assert stages[2].config.optimizer.warmup == 1  # on top of the configuration, not of the second stage
    # 5 batches of 8 x 16 targets fill one of 16 x 32 and begin another; with 4 of these, five of 8 x 64 and another.
    assert [stage.first_batch for stage in stages] == [0, 2, 6]
    at = [stage_of_step(fake_config(**OPTIONS), step).number for step in (0, 1, 5, 6, 9, 10, 12, 99)]
    assert at == [1, 1, 1, 2, 2, 3, 3, 3]


def test_without_stages_the_run_is_one():
    config = fake_config()
    (stage,) = stages_of(config)
    assert (stage.start, stage.end, stage.first_batch) == (0, 12, 0) and stage.config is config


def test_the_schedule_begins_anew_in_every_stage(uninterrupted):
    rates = [row["train/learning_rate"] for row in rows_of(uninterrupted[0]) if "train/loss" in row]
    # The second batch of the run is bad: its step is no update, and has no row. (Nor has the same batch elsewhere.)
    warm_up = [0.01 * t / 4 for t in (1, 2, 3, 4)]
    np.testing.assert_allclose(rates, [0.02] * 4 + warm_up + [0.005] * 3, rtol=1e-6)


def test_moments_go_on_and_the_carry_is_new():
    config = fake_config(**OPTIONS)
    legs = plan_legs(FakeTask(config), stages_of(config), make_mesh(ONE_DEVICE, jax.devices()[:1]))
    state = legs[0].initial_state(0)
    state = state.replace(opt_state=jax.tree.map(lambda leaf: leaf + 3, state.opt_state), step=jnp.int32(5))
    entered = legs[1].enter(state)
    assert int(scheduled_updates(state.opt_state)) == 3 and int(scheduled_updates(entered.opt_state)) == 0
    counts = optax.tree.get_all_with_path(entered.opt_state, "count")
    assert sorted(int(count) for _, count in counts) == [0, 3]  # the schedule's, and the one that corrects Adam's bias
    np.testing.assert_array_equal(optax.tree.get(entered.opt_state, "mu")["out"]["bias"], np.full(32, 3.0))
    assert jax.tree.map(jnp.shape, entered.carry)["mean"] == (1, 2, 16, 16)
    assert int(entered.step) == 5


@pytest.mark.parametrize("step", [5, *(pytest.param(step, marks=pytest.mark.slow) for step in (7, 9, 10))])
def test_interrupted_in_any_stage_or_between_two(uninterrupted, tmp_path, step):
    read = []

    class Interrupted(FakeTask):
        def train_reader(self, *share):
            class SendingReader(Reader):
                def iterate(self, start_step):
                    for batch in super().iterate(start_step):
                        read.append(batch["inputs"].shape)
                        if len(read) == step:
                            os.kill(os.getpid(), signal.SIGTERM)
                        yield batch

            return SendingReader(self.config, *share)

    assert run(tmp_path, task=Interrupted, **OPTIONS) == {}
    assert read == ([(8, 16)] * 5 + [(16, 32)] * 4 + [(8, 64)] * 3)[:step]
    assert str(step) in {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert run(tmp_path, **OPTIONS) == uninterrupted[1]
    assert rows_of(tmp_path) == rows_of(uninterrupted[0])


def test_a_run_may_end_within_a_stage_and_go_on(uninterrupted, tmp_path):
    run(tmp_path, **OPTIONS | dict(steps=7))
    assert run(tmp_path, **OPTIONS) == uninterrupted[1]


def test_a_task_that_changes_with_its_parameters_is_compiled_anew(tmp_path):
    """What adaptive spans do: the step is remade for a task of another static size, and goes on where it was."""
    compiled = []

    class Adapting(FakeTask):
        size = 3

        def adapt(self, params, *, frozen=False):
            size = 3 if float(jnp.abs(params["out"]["bias"]).max()) < 0.05 else 2
            if size == self.size:
                return self
            task = type(self)(self.config)
            task.size = size
            return task

        def loss(self, params, batch, carry=(), *, key=None, deterministic=True):
            if not deterministic:
                compiled.append(self.size)
            return super().loss(params, batch, carry, key=key, deterministic=deterministic)

    result = run(tmp_path / "adapting", task=Adapting)
    assert sorted(set(compiled), reverse=True) == [3, 2] == list(dict.fromkeys(compiled))
    assert result == run(tmp_path / "plain")
    assert rows_of(tmp_path / "adapting") == rows_of(tmp_path / "plain")


@pytest.mark.slow
def test_a_stage_ends_when_all_of_its_steps_have_changed_something(uninterrupted, tmp_path):
    """Steps for which the parameters were too large are taken again before the stage is left, seen by nobody else."""
    seldom = dict(log_every=100, eval__every=0, checkpoint__every=0)
    assert run(tmp_path, task=Growing, **OPTIONS | seldom) == uninterrupted[1]


class Shapeshifter(FakeTask):
    def init(self, key):
        params = super().init(key)
        return params | {"length": jnp.zeros(self.config.data.length)}


def test_parameters_must_be_the_same_in_every_stage(tmp_path):
    with pytest.raises(UserError, match="stage 2: the parameters or the optimizer's state have other"):
        run(tmp_path, task=Shapeshifter, **OPTIONS)
    assert not list(tmp_path.iterdir())


@pytest.mark.eight_devices
def test_a_stage_that_does_not_fit_the_mesh_is_named(tmp_path):
    with pytest.raises(UserError, match=r"stage 2: config.batch_size=12 cannot be split over 8 devices"):
        run(tmp_path, stages=((5, ()), (7, (("batch_size", 12),))))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (((5, ()), (4, ())), "config.steps=12; the stages of config.stages have 9 steps in all"),
        (((12, (("seed", 2),)),), "stage 1 sets 'seed'; fields of batch_size, accumulate"),
        (((12, (("batchsize", 2),)),), "stage 1 sets 'batchsize'; fields of"),
        (((12, (("batch_size", 2.5),)),), r"stage 1 sets batch_size=2.5; expected int"),
        (((12, (("batch_size", 0),)),), r"in stage 1, config.batch_size=0; 1 or more is allowed"),
        (((12, ("batch_size", 2)),), r"stage 1, \(12, \('batch_size', 2\)\), is no pair \(steps,"),
    ],
)
def test_mistakes_are_named(stages, message):
    with pytest.raises(UserError, match=message):
        stages_of(fake_config(stages=stages))
