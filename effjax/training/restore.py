"""Trained parameters, back on the devices at hand, whatever they were trained on."""

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from effjax.training.checkpoints import restore_params
from effjax.training.sharding import make_mesh
from effjax.training.workdir import open_workdir


def restore_on_all_devices(task, workdir: str, which: str = "latest") -> tuple[int, dict, Mesh]:
    """Reads the parameters of a run onto every device, for scoring and generation.

    Args:
      task: the task of the run's configuration.
      workdir: the run's directory.
      which: "latest", "best" (by the valid score) or a step.

    Returns:
      The checkpoint's step, the parameters, and the mesh, all of whose devices are along `data`.

    Raises:
      UserError: there is no such checkpoint, or it is damaged or of another model.
    """
    mesh = make_mesh(dict(data=-1, fsdp=1, tensor=1, sequence=1), jax.devices())
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
        jax.eval_shape(task.init, jax.random.key(0)),
    )
    step, params = restore_params(open_workdir(workdir), params, which=which)
    return step, params, mesh
