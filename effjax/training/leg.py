"""A stretch of training with one compiled step: it ends where a stage does, or where the task changes."""

from typing import Self

import jax
from jax.sharding import Mesh

from effjax.compression.training import training_optimizer
from effjax.data.placement import reader_share
from effjax.errors import UserError
from effjax.training.distributed import global_batches
from effjax.training.optimizers import restart_schedule
from effjax.training.progress import Speed, utilisation_flops
from effjax.training.stages import Stage
from effjax.training.state import TrainState, initial_carry, initial_state
from effjax.training.step import jit_train_step


class Leg:
    """All that is made again when the stage or the task changes.

    Attributes:
      stage: the stage it belongs to.
      task: the task, as this leg trains it.
      state: abstract, with shardings: what the step takes.
      batch: abstract, with shardings.
      reader: of this process's share of every batch.
      train_step, batches, speed: the compiled step, the batches to come and the clock, once it has set out.

    Raises UserError where the sharding rules or the mesh do not fit the task.
    """

    def __init__(self, task, stage: Stage, mesh: Mesh):
        self.task, self.stage, self._mesh = task, stage, mesh
        self._optimizer = training_optimizer(task, stage.config)
        self._init = lambda key: initial_state(task, self._optimizer, stage.config, key)
        with jax.set_mesh(mesh):  # as in `initial_state`: of one function under one mesh JAX remembers what it traced
            state = jax.eval_shape(self._init, jax.random.key(0))
        self._jitted, self.state, self.batch = jit_train_step(task, self._optimizer, stage.config, mesh, state)
        self.reader = self.train_step = self.batches = self.speed = None

    def open_reader(self) -> None:
        """Opens the data, which the stages of a task share."""
        self.reader = self.task.train_reader(*reader_share(self._mesh))

    def initial_state(self, seed: int) -> TrainState:
        """The state before the first step."""
        return jax.jit(self._init, out_shardings=self._shardings)(jax.random.key(seed))

    def enter(self, state: TrainState) -> TrainState:
        """The state of the stage before as this one takes it up: its schedule at the beginning, its carry new."""

        def begin(state):
            return state.replace(opt_state=restart_schedule(state.opt_state), carry=self._carry())

        return jax.jit(begin, out_shardings=self._shardings)(state)

    def set_out(self, step: int, steps: int) -> None:
        """Compiles the step and reads from where the data stand behind `step` steps taken, of `steps` in all."""
        self.train_step = self._jitted.lower(self.state, self.batch).compile()
        if self.batches is None:
            first = self.stage.first_batch + step - self.stage.start
            self.batches = global_batches(self.reader, first, self.batch)
        flops = utilisation_flops(self.task, self.stage.config.batch_size, self.state.params, self.batch)
        self.speed = Speed(step=step, steps=steps, tokens=self.batch["inputs"].size, flops=flops)

    def adapted(self, params) -> Self:
        """The leg that goes on from here with these parameters: itself, unless its task changes with them."""
        task = self.task.adapt(params)
        if task is self.task:
            return self
        leg = type(self)(task, self.stage, self._mesh)
        leg.reader, leg.batches = self.reader, self.batches
        return leg

    def outgrown(self, params) -> Self:
        """The leg that takes again the steps which changed nothing, since the task did not fit these parameters."""
        leg = self.adapted(params)
        if leg is self:
            raise RuntimeError("task.fits is False for parameters for which task.adapt changes nothing")
        leg.batches = None  # read again, from the first of them on
        return leg

    def readapted(self, adapted) -> Self:
        """The leg as it was when `leg.task.adapted` was saved."""
        leg = type(self)(self.task.readapted(adapted), self.stage, self._mesh)
        leg.reader = self.reader
        return leg

    @property
    def _shardings(self):
        return jax.tree.map(lambda leaf: leaf.sharding, self.state)

    def _carry(self):
        return initial_carry(self.task, self.stage.config)


def plan_legs(task, stages: tuple[Stage, ...], mesh: Mesh) -> list[Leg]:
    """One leg for each stage, all made before the first step, so that a mistake in a late stage is found at once.

    Raises:
      UserError: a stage in which the parameters or the optimizer's state have other shapes.
    """
    legs = []
    for stage in stages:
        try:
            legs.append(Leg(task.at_stage(stage.config), stage, mesh))
        except UserError as error:
            raise error if len(stages) == 1 else UserError(f"stage {stage.number}: {error}") from error
        if _shapes(legs[-1]) != _shapes(legs[0]):
            raise UserError(
                f"stage {stage.number}: the parameters or the optimizer's state have other names or shapes than in "
                "stage 1; a stage of config.stages may change what is computed with them, not what they are"
            )
    return legs


def leg_of_step(legs: list[Leg], step: int) -> Leg:
    """The leg in which a step, counted from 1, is taken; the first one for step 0."""
    return next((leg for leg in legs if step <= leg.stage.end), legs[-1])


def _shapes(leg: Leg):
    kept = (leg.state.params, leg.state.opt_state)
    return jax.tree.structure(kept), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(kept)]
