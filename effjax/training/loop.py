"""The one training loop, for every task and model."""

import math

import jax

from effjax.errors import UserError
from effjax.training.checkpoints import Checkpoints
from effjax.training.config import check_config
from effjax.training.curves import draw_curves
from effjax.training.distributed import Preemption
from effjax.training.leg import leg_of_step, plan_legs
from effjax.training.metrics import Means, MetricsLog, read_rows
from effjax.training.progress import Console, status
from effjax.training.restore import check_start, starting_params
from effjax.training.sharding import make_mesh
from effjax.training.stages import stages_of
from effjax.training.step import LOSS
from effjax.training.workdir import check_same_run, open_workdir, save_config


def train(task, config, workdir: str) -> dict[str, float]:
    """Trains, from the newest checkpoint in `workdir` where there is one, and scores the result.

    For one configuration and one mesh, losses are a function of the step alone: a run that is killed and started again
    writes the metrics, timings aside, that an uninterrupted one writes.

    Args:
      task: what to train, see `effjax.tasks`.
      config: a whole configuration, see `effjax.training.config`.
      workdir: a directory, local or `gs://…`, seen by every process.

    Returns:
      The test scores, `{"test/bits_per_byte": …}`; none where `config.eval.test` is off or a signal ended the run.

    Raises:
      UserError: something in the configuration, the workdir or the data that the user can mend; or
        `config.max_bad_steps` steps in a row without a finite loss and gradient.
    """
    # Devices, stages and shapes.
    console = Console()
    print(f"Hello from process {jax.process_index()}/{jax.process_count()}, devices {jax.local_devices()}", flush=True)
    workdir = open_workdir(workdir)
    check_config(config)
    check_same_run(workdir, config)
    check_start(config)
    task.workdir = workdir
    mesh = make_mesh(config.mesh, jax.devices())
    legs = plan_legs(task, stages_of(config), mesh)
    n_parameters = sum(leaf.size for leaf in jax.tree.leaves(legs[0].state.params))
    console.say(f"{n_parameters:,} parameters, mesh {dict(mesh.shape)}, workdir {workdir}")

    # Data.
    for leg in legs:
        leg.open_reader()
    if jax.process_index() == 0:
        save_config(workdir, config)

    with jax.set_mesh(mesh), Preemption() as preemption, Checkpoints(workdir, config.checkpoint.keep) as checkpoints:
        # The state to start from.
        restored = checkpoints.restore(lambda step: leg_of_step(legs, step).state, report=console.say)
        if restored:
            step, state, position = restored
            console.say(f"continuing from the checkpoint of step {step:,}")
        else:
            console.say(f"initialising the parameters{f' from {config.init_from}' if config.init_from else ''}")
            step, state, position = 0, legs[0].initial_state(config.seed), {"since_row": {}, "best": None}
            if config.init_from:
                state = state.replace(params=starting_params(config, legs[0].state.params))
        means, best = Means(position["since_row"]), position["best"]
        leg = leg_of_step(legs, step)
        leg = leg.readapted(position["adapted"]) if restored else leg.adapted(state.params)

        # The loop.
        stopped = False
        with MetricsLog(workdir, step) as log:
            console.say(f"training from step {step:,} to {config.steps:,}")
            while step < config.steps and not stopped:
                if step == leg.stage.end:  # the next stage; the legs behind it, their data and their steps are let go
                    legs = [later for later in legs if later.stage.start >= step]
                    console.say(f"stage {legs[0].stage.number} begins, to step {legs[0].stage.end:,}")
                    leg, state = legs[0].adapted(state.params), legs[0].enter(state)
                if leg.train_step is None:
                    console.say("compiling the training step")
                    leg.set_out(step, config.steps)

                state, metrics = leg.train_step(state, next(leg.batches))
                means.add(metrics)
                step += 1
                stopped = preemption.reached(step)
                due = _due(config, step)
                row, improved = {}, False

                if (due or stopped or step == leg.stage.end) and int(state.step) < step:  # waits for the step
                    step, due = int(state.step), set()
                    console.say(f"the parameters outgrew the compiled step after step {step:,}, whence it goes on")
                    leg = leg.outgrown(state.params)

                if "log" in due:
                    trained = _report(leg.task, means.take())
                    timing, seconds_left = leg.speed.read(step)
                    console.live(status(step, config.steps, trained | timing, seconds_left))
                    row |= _prefixed("train", trained | timing | {"skipped": int(state.skipped)})

                if due:
                    leg = leg.adapted(state.params)

                if "score" in due:
                    scores = leg.task.evaluate(state.params, "valid", limit=config.eval.limit or None, mesh=mesh)
                    row |= _prefixed("valid", scores)
                    score = _pick(scores, config.eval.metric)
                    improved = math.isfinite(score) and (best is None or score < best["score"])
                    best = {"step": step, "score": score} if improved else best

                if row:
                    log.write(step, row)  # before the checkpoint, so that a restored step has its row
                save = stopped or improved or "save" in due
                if row or save:
                    _check_bad_steps(state, config.max_bad_steps, checkpoints)
                if save and step != checkpoints.latest_step:
                    position = {"since_row": means.sums(), "best": best, "adapted": leg.task.adapted}
                    checkpoints.save(step, state, position)
                if (row or save) and leg.speed:
                    leg.speed.resume(step)

            # The result.
            checkpoints.wait()
            test = {}
            if step < config.steps:
                console.say(f"stopped after step {step:,}, checkpoint written; the same command goes on from there")
            elif config.eval.test:
                console.say("scoring the test split")
                test = _prefixed("test", leg.task.evaluate(state.params, "test", mesh=mesh))
                log.write(step, test)
                for name, value in test.items():
                    console.say(f"{name} = {value:,.4f}")

        if jax.process_index() == 0:
            console.say(f"curves: {draw_curves(workdir, config.eval.metric)}")
        if step >= config.steps and config.sample.length:  # last: by now nothing can be lost
            text = leg.task.sample(state.params, jax.random.key(config.seed))
            console.say(f"generated text:\n{config.sample.prompt}{text}")
    return test


def train_to_the_end(task, config, workdir: str) -> dict[str, float]:
    """`train`, for scripts that go on with what it leaves behind.

    Raises:
      UserError: as `train`; and where a signal ended the run before its last step, which must not pass for the result.
    """
    test = train(task, config, workdir)
    step = max((row["step"] for row in read_rows(open_workdir(workdir) / "metrics.jsonl")), default=0)
    if step < config.steps:
        raise UserError(f"{workdir} stopped before step {config.steps:,}; the same command goes on from its checkpoint")
    return test


def _due(config, step: int) -> set[str]:
    """What is to be done after a step."""
    periods = {"log": config.log_every, "score": config.eval.every, "save": config.checkpoint.every}
    last = step == config.steps
    return {name for name, every in periods.items() if last or (every > 0 and step % every == 0)}


def _report(task, means: dict[str, float]) -> dict[str, float]:
    """Means as they are logged: the task's as it reports them, the step's own beside them."""
    if LOSS not in means:  # every step since the last row was skipped
        return {}
    own = {name: means.pop(name) for name in ("grad_norm", "learning_rate")}
    return task.report(means) | own


def _prefixed(split: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{split}/{name}": value for name, value in values.items()}


def _pick(scores: dict[str, float], metric: str) -> float:
    if metric not in scores:
        raise UserError(f"config.eval.metric={metric!r}; the scores are {', '.join(scores)}")
    return float(scores[metric])


def _check_bad_steps(state, limit: int, checkpoints: Checkpoints) -> None:
    bad = int(state.skipped_in_a_row)
    if bad >= limit:
        checkpoints.wait()
        first, kept = int(state.step) - bad + 1, checkpoints.latest_step
        kept = "there is no checkpoint" if kept is None else f"the last finite checkpoint is that of step {kept}"
        raise UserError(
            f"training stopped at step {first + limit - 1}: loss or gradient was not finite from step {first} on, "
            f"{limit} steps in a row (config.max_bad_steps); {kept}"
        )
