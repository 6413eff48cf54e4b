"""Optimizers and learning-rate schedules, from optax."""

import jax
import jax.numpy as jnp
import optax

from effjax.errors import UserError
from effjax.training.adagrad import scale_by_adagrad

OPTIMIZERS = ("adam", "adamw", "adafactor", "adagrad")
SCHEDULES = ("rsqrt", "cosine", "constant")


def make_schedule(config) -> optax.Schedule:
    """Learning rate of update t = 1, 2, … with warm-up w; optax counts updates from 0, hence `t = count + 1`.

    rsqrt: `c * min(1, t/w) / sqrt(max(t, w))`, peak `c / sqrt(w)`; cosine: `c * min(1, t/w)`, then
    `c/2 * (1 + cos(pi * (t-w) / (steps-w)))`; constant: `c * min(1, t/w)`.

    Args:
      config: the whole configuration; `optimizer.{schedule, learning_rate, warmup}` and `steps` are read.

    Returns:
      A function of the number of updates made so far.

    Raises:
      UserError: an unknown schedule.

    Source: rsqrt: the Reformer configurations of trax (`multifactor("constant * linear_warmup * rsqrt_decay")`).
    """
    name, c = config.optimizer.schedule, config.optimizer.learning_rate
    w = max(config.optimizer.warmup, 1)
    if name not in SCHEDULES:
        raise UserError(f"config.optimizer.schedule={name!r}; one of {', '.join(SCHEDULES)} is allowed")

    def schedule(count):
        t = jnp.asarray(count, jnp.float32) + 1.0
        rate = c * jnp.minimum(1.0, t / w)
        if name == "rsqrt":
            return rate * jax.lax.rsqrt(jnp.maximum(t, w))
        if name == "cosine":
            progress = jnp.clip((t - w) / max(config.steps - w, 1), 0.0, 1.0)
            return rate * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        return rate

    return schedule


def make_optimizer(config) -> optax.GradientTransformation:
    """The optimizer of a configuration: clipping by the global norm, then Adam, AdamW, Adafactor or Adagrad.

    Weight decay is decoupled, scaled by the learning rate in AdamW and by itself in Adafactor, and spares biases,
    scales and random projections (by name: under a scan over layers they have another axis).

    Raises:
      UserError: an unknown optimizer or schedule; weight decay for Adam or Adagrad; `tensor_clip` for another optimizer
        than Adagrad.
    """
    options, schedule = config.optimizer, make_schedule(config)
    if options.name not in OPTIMIZERS:
        raise UserError(f"config.optimizer.name={options.name!r}; one of {', '.join(OPTIMIZERS)} is allowed")
    if options.name in ("adam", "adagrad") and options.weight_decay:
        raise UserError(f"config.optimizer.weight_decay={options.weight_decay} needs config.optimizer.name=adamw")
    if options.tensor_clip < 0 or (options.tensor_clip and options.name != "adagrad"):
        raise UserError(f"config.optimizer.tensor_clip={options.tensor_clip}; 0, or more with optimizer.name=adagrad")
    if options.name == "adafactor":
        optimizer = optax.adafactor(
            schedule, weight_decay_rate=options.weight_decay or None, weight_decay_mask=decayed_parameters
        )
    elif options.name == "adagrad":
        adagrad = scale_by_adagrad(eps=options.eps, tensor_clip=options.tensor_clip)
        optimizer = optax.chain(adagrad, optax.scale_by_learning_rate(schedule))
    else:
        optimizer = optax.adamw(
            schedule, options.b1, options.b2, options.eps, weight_decay=options.weight_decay, mask=decayed_parameters
        )
    clip = [optax.clip_by_global_norm(options.clip_norm)] if options.clip_norm else []
    return optax.chain(*clip, optimizer)


def decayed_parameters(params):
    """True for each parameter that weight decay shrinks."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("bias", "scale", "projection"), params)


def scheduled_updates(opt_state) -> jax.Array:
    """How many updates the schedule has counted: all since the stage began that were not skipped."""
    parts = jax.tree.leaves(opt_state, is_leaf=_is_schedule)
    return next(part.count for part in parts if _is_schedule(part))


def restart_schedule(opt_state):
    """The optimizer's state with its schedule at the beginning; moments and what corrects their bias stay."""

    def restarted(part):
        return part._replace(count=jnp.zeros_like(part.count)) if _is_schedule(part) else part

    return jax.tree.map(restarted, opt_state, is_leaf=_is_schedule)


def _is_schedule(part) -> bool:
    return isinstance(part, optax.ScaleByScheduleState)
