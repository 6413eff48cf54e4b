"""Everything that a training run is at one moment, as one pytree of arrays."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """The state between two steps.

    Attributes:
      step: int32, steps taken, skipped ones included; the data stand at example `step * batch_size`.
      params: parameters, float32.
      opt_state: the optimizer's state; it does not count skipped steps.
      carry: what the task carries from step to step, stacked over the pieces of an accumulated step, or `()`.
      key: PRNG key of the run; step t uses `fold_in(key, t)`.
      skipped: int32, steps skipped for a non-finite loss or gradient.
      skipped_in_a_row: int32, those since the last good step.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    carry: Any
    key: jax.Array
    skipped: jax.Array
    skipped_in_a_row: jax.Array


def initial_state(task, optimizer: optax.GradientTransformation, config, key: jax.Array) -> TrainState:
    """The state before the first step, as a traceable function of the key."""
    params_key, run_key = jax.random.split(key)
    return state_of_params(task, optimizer, config, task.init(params_key), run_key)


def state_of_params(task, optimizer: optax.GradientTransformation, config, params, key: jax.Array) -> TrainState:
    """The state before the first step of a run that begins with these parameters, its key `key`."""
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.init(params),
        carry=initial_carry(task, config),
        key=key,
        skipped=jnp.int32(0),
        skipped_in_a_row=jnp.int32(0),
    )


def initial_carry(task, config):
    """What the first step of a run, or of a stage, takes in: see `TrainState.carry`."""
    return _initial_carry(task, config.batch_size // config.accumulate, config.accumulate)


def abstract_state(task, optimizer: optax.GradientTransformation, config) -> TrainState:
    """Shapes and types of the state; nothing is computed."""
    return jax.eval_shape(lambda key: initial_state(task, optimizer, config, key), jax.random.key(0))


def carry_batch_axes(task, config):
    """The axis along which each leaf of `TrainState.carry` holds the batch, -1 for none: the one that grows with it."""
    rows = config.batch_size // config.accumulate
    small, large = (jax.eval_shape(lambda n=n: _initial_carry(task, n, config.accumulate)) for n in (rows, 2 * rows))

    def axis(a, b):
        return next((i for i, (m, n) in enumerate(zip(a.shape, b.shape)) if m != n), -1)

    return jax.tree.map(axis, small, large)


def _initial_carry(task, rows: int, pieces: int):
    return jax.tree.map(lambda x: jnp.stack([x] * pieces), task.initial_carry(rows))
