"""From the working directory of a trained run to that of a smaller model."""

import jax

from effjax.compression.calibrate import calibrate, training_batches
from effjax.compression.kernels import find_kernels, select
from effjax.compression.quantize import check_mode, kernel_losses, nbytes, quantize_params, quantized_bytes
from effjax.errors import UserError
from effjax.tasks import make_task
from effjax.tasks.task import Task
from effjax.training.checkpoints import fingerprint
from effjax.training.release import check_release, write_release
from effjax.training.restore import restore_on_all_devices
from effjax.training.stages import stage_of_step
from effjax.training.workdir import open_workdir


def float_task(config, workdir: str) -> Task:
    """The task of a run in floats, unpruned.

    Raises:
      UserError: the run holds integers already.
    """
    if config.quantization.stored:
        raise UserError(f"{workdir} holds integers already; give the run that they were made from")
    config = config.copy_and_resolve_references().unlock()
    config.quantization.mode, config.quantization.states, config.pruning.method = "none", False, "none"
    return make_task(config.lock())


def after_training(task: Task, workdir: str, which: str):
    """A run as it is after training.

    Returns:
      `(task, step, params, mesh)`; the task is that of the stage in which it ended, and knows what the run keeps beside
      its checkpoints.

    Raises:
      UserError: there is no such checkpoint.
    """
    step, params, mesh = restore_on_all_devices(task, workdir, which)
    task = task.at_stage(stage_of_step(task.config, step).config)
    task.workdir = open_workdir(workdir)
    return task, step, params, mesh


def score(task, params, of, split: str, **settings) -> dict:
    """`task.evaluate`, with what the run of the task `of` keeps beside its checkpoints."""
    task.workdir = of.workdir
    return task.evaluate(params, split, **settings)


def write_smaller(out: str, config, step: int, params, task) -> int:
    """Writes a release, with the files of the run that the task it comes from needs; bytes of the parameters' file."""
    files = tuple(path for path in (task.workdir / name for name in task.files) if path.exists())
    return write_release(open_workdir(out), config, step, params, fingerprint({"params": params}), files=files)


def in_integers(config, mode: str, states: bool):
    """The configuration of the same model in integers."""
    config = config.copy_and_resolve_references().unlock()
    config.quantization.update(mode=mode, states=states, stored=True)
    return config.lock()


def quantize_run(
    config,
    workdir: str,
    out: str,
    *,
    mode: str,
    which: str = "latest",
    states: bool = False,
    calibration_batches: int = 32,
    split: str = "test",
    limit: int = 0,
) -> dict:
    """Writes a quantised copy of a run and says what it cost.

    Args:
      config: the run's, with the rules and the group size of `config.quantization`.
      workdir: the run's.
      out: directory to write.
      mode: a name of `effjax.compression.quantize.MODES`.
      which: checkpoint: "latest", "best" or a step.
      states: whether streams keep keys, values and memories in 8 bits, too.
      calibration_batches: training batches for the scales of "int8_static".
      split, limit: what is scored before and after.

    Returns:
      `before` and `after` (scores), `bytes` (before, after, formula, disk) and `sqnr` (decibels, the worst first).

    Raises:
      UserError: anything that does not fit, before any work is done.
    """
    check_release(open_workdir(out))
    check_mode(mode)
    task = float_task(config, workdir)
    rules, group = config.quantization.rules, config.quantization.group
    kernels = select(find_kernels(task.init), rules, field="config.quantization.rules")
    make_task(in_integers(task.config, mode, states))  # checks its settings
    if mode == "int8_static" and calibration_batches < 1:
        raise UserError(f"calibration_batches={calibration_batches}: the calibration data is empty; 1 or more")

    task, step, params, mesh = after_training(task, workdir, which)
    small_config = in_integers(task.config, mode, states)
    with jax.set_mesh(mesh):
        scales = None
        if mode == "int8_static":
            carry = task.initial_carry(task.config.batch_size)
            scales = calibrate(task.loss, params, training_batches(task, calibration_batches), kernels, carry)
        make_small = jax.jit(lambda params: quantize_params(params, kernels, mode, group, scales))
        quantized = make_small(params)
        settings = dict(limit=limit or None, mesh=mesh)
        before = task.evaluate(params, split, **settings)
        after = score(make_task(small_config), quantized, task, split, **settings)
    disk = write_smaller(out, small_config, step, quantized, task)
    sizes = {"before": nbytes(params), "after": nbytes(quantized), "disk": disk}
    return {
        "mode": mode,
        "before": before,
        "after": after,
        "bytes": sizes | {"formula": quantized_bytes(params, kernels, mode, group)},
        "sqnr": kernel_losses(params, quantized, kernels),
    }
