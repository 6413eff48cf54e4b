"""Trained parameters, back on the devices at hand, whatever they were trained on."""

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from effjax.errors import UserError
from effjax.training.averaging import AVERAGE, average_params
from effjax.training.checkpoints import restore_params
from effjax.training.sharding import make_mesh
from effjax.training.workdir import load_saved_config, open_workdir


def restore_on_all_devices(task, workdir: str, which: str = "latest") -> tuple[int, dict, Mesh]:
    """Reads the parameters of a run onto every device, for scoring and generation.

    Args:
      task: the task of the run's configuration, `task.config`.
      workdir: the run's directory.
      which: "latest", "best" (by the valid score), a step, or "average:N", the mean of the last N.

    Returns:
      The checkpoint's step, the parameters, and the mesh, all of whose devices are along `data`.

    Raises:
      UserError: there is no such checkpoint, or it is damaged, or of another model or vocabulary.
    """
    directory = open_workdir(workdir)
    saved, ours = load_saved_config(directory).data.vocabulary, task.config.data.vocabulary
    if saved != ours:  # two vocabularies may have the same size: the parameters would not tell
        raise UserError(f"the run in {directory} uses vocabulary {saved!r}, the configuration {ours!r}")
    mesh = make_mesh(dict(data=-1, fsdp=1, tensor=1, sequence=1), jax.devices())
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
        task.abstract_params,
    )
    if which.startswith(AVERAGE):
        if not which.removeprefix(AVERAGE).isdecimal():
            raise UserError(f"checkpoint {which!r}; latest, best, a step or {AVERAGE}N is allowed")
        step, params = average_params(directory, params, int(which.removeprefix(AVERAGE)))
    else:
        step, params = restore_params(directory, params, which=which)
    return step, params, mesh


def check_start(config) -> None:
    """Raises UserError where `config.init_from` names no run, or one of another vocabulary."""
    if not config.init_from:
        return
    theirs, ours = load_saved_config(open_workdir(config.init_from)).data.vocabulary, config.data.vocabulary
    if theirs != ours:
        raise UserError(f"config.init_from={config.init_from!r} has the vocabulary {theirs!r}, this run {ours!r}")


def starting_params(config, params) -> dict:
    """The parameters that training starts from: the newest of `config.init_from`, in the shardings of `params`."""
    return restore_params(open_workdir(config.init_from), params)[1]
