"""One training step: as a pure function of state and batch, and compiled for the devices of a mesh."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from effjax.training.optimizers import make_schedule, scheduled_updates
from effjax.training.sharding import batch_shardings, state_shardings
from effjax.training.state import TrainState, abstract_state, carry_batch_axes

# The metric of every task whose weight counts what its loss is a mean over: targets, examples.
LOSS = "nats"
AFTER_UPDATE = 1  # tells the key of `task.after_update` from those of the loss


def make_train_step(task, optimizer: optax.GradientTransformation, config) -> Callable:
    """The step `(state, batch) -> (state, metrics)`; `jit_train_step` compiles it.

    A step whose parameters the task does not fit (`task.fits`) changes nothing at all, `state.step` included: every
    later one finds the same parameters and changes nothing either, until the loop has remade it.

    A step whose loss or gradient is not finite changes no parameter, no optimizer state and no carry: the data move on
    and the step is counted as skipped. After `config.max_bad_steps` of them in a row every later step is skipped too,
    so the loop may look rarely and still finds the state as it was when training had to stop.

    Args:
      task: see `effjax.tasks`.
      optimizer: its state is `state.opt_state`; it counts updates by `optax.scale_by_schedule`.
      config: `accumulate`, `max_bad_steps`, and what the schedule reads.

    Returns:
      A function of a `TrainState` and a batch of global arrays. Its metrics are pairs (sum, weight), zero for a skipped
      step: those of the task, `grad_norm` (before clipping) and `learning_rate`.
    """
    schedule = make_schedule(config)

    def train_step(state: TrainState, batch) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(state.key, state.step)
        loss, metrics, carry, grads = _accumulated_gradients(task, config.accumulate, state, batch, key)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        fits = jnp.asarray(task.fits(state.params))
        good = fits & finite & (state.skipped_in_a_row < config.max_bad_steps)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        params = task.after_update(params, step=state.step, key=jax.random.fold_in(key, AFTER_UPDATE))
        params = task.absorb(params, carry)
        learning_rate = schedule(scheduled_updates(state.opt_state))
        metrics |= {"grad_norm": (grad_norm, 1.0), "learning_rate": (learning_rate, 1.0)}

        def where_good(new, old):
            return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)

        state = state.replace(
            step=state.step + fits,
            params=where_good(params, state.params),
            opt_state=where_good(opt_state, state.opt_state),
            carry=where_good(carry, state.carry),
            skipped=state.skipped + (fits & ~good),
            skipped_in_a_row=jnp.where(good, 0, state.skipped_in_a_row + fits),
        )
        return state, jax.tree.map(lambda x: jnp.where(good, jnp.float32(x), 0.0), metrics)

    return train_step


def jit_train_step(task, optimizer: optax.GradientTransformation, config, mesh: Mesh, state: TrainState | None = None):
    """The step as it runs on a mesh: what training compiles, and what a plan compiles to see its cost.

    The state is donated, so that it is updated in place; metrics are on every device.

    Args:
      task: see `effjax.tasks`.
      optimizer: its state is `state.opt_state`.
      config: what `make_train_step` reads, and `sharding`.
      mesh: from `training.sharding.make_mesh`.
      state: what it takes, abstract; None: what `abstract_state` finds out.

    Returns:
      `(train_step, state, batch)`: the jitted step, and what it takes, as abstract arrays that carry their shardings.

    Raises:
      UserError: the sharding rules do not fit a parameter, or the mesh does not divide the batch.
    """
    state = abstract_state(task, optimizer, config) if state is None else state
    batch = task.abstract_batch()
    in_batch = batch_shardings(batch, mesh)
    in_state = state_shardings(state, mesh, config.sharding, carry_batch_axes(task, config))
    train_step = jax.jit(
        make_train_step(task, optimizer, config),
        in_shardings=(in_state, in_batch),
        out_shardings=(in_state, NamedSharding(mesh, PartitionSpec())),
        donate_argnums=0,
    )
    return train_step, _placed(state, in_state), _placed(batch, in_batch)


def _placed(tree, shardings):
    """Abstract arrays that know where they will live."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def _accumulated_gradients(task, pieces: int, state: TrainState, batch, key):
    """Loss, metrics, carry and gradient of a batch computed in pieces, weighted so that they are the whole batch's."""

    def gradients(piece, carry, key):
        loss_fn = jax.value_and_grad(task.loss, has_aux=True)
        (loss, (metrics, carry)), grads = loss_fn(state.params, piece, carry, key=key, deterministic=False)
        return loss, metrics, carry, grads

    if pieces == 1:
        loss, metrics, carry, grads = gradients(batch, jax.tree.map(lambda x: x[0], state.carry), key)
        return loss, metrics, jax.tree.map(lambda x: x[None], carry), grads

    def add_piece(total, piece):
        loss, metrics, carry, grads = gradients(*piece)
        weight = metrics[LOSS][1]
        weighted = jax.tree.map(lambda x: x * weight, (loss, grads))
        return jax.tree.map(jnp.add, total, (*weighted, metrics)), carry

    # Piece i takes the rows i, i + pieces, …, so that each device splits the rows it already holds.
    split = jax.tree.map(lambda x: x.reshape(-1, pieces, *x.shape[1:]).swapaxes(0, 1), batch)
    inputs = (split, state.carry, jax.random.split(key, pieces))
    shapes = jax.eval_shape(gradients, *jax.tree.map(lambda x: x[0], inputs))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], shapes[3], shapes[1]))
    (loss, grads, metrics), carry = jax.lax.scan(add_piece, zeros, inputs)
    mean = 1.0 / metrics[LOSS][1]
    loss, grads = jax.tree.map(lambda x: x * mean, (loss, grads))
    return loss, metrics, carry, grads
