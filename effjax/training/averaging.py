"""The mean of a run's last checkpoints, which often scores better than any of them."""

import jax
import numpy as np
from etils import epath

from effjax.errors import UserError
from effjax.training.checkpoints import restore_params

AVERAGE = "average:"


def average_params(workdir: epath.Path, params, count: int):
    """Reads the parameters of the last checkpoints of a run and takes their mean.

    Args:
      workdir: of the run.
      params: abstract parameters, as for `effjax.training.checkpoints.restore_params`.
      count: how many checkpoints; `config.checkpoint.keep` says how many a run keeps.

    Returns:
      `(step, params)`, the step of the last of them.

    Raises:
      UserError: there are fewer checkpoints, or one cannot be read.

    Source: Vaswani et al. 2017 (1706.03762), section 6.1.
    """
    folder = workdir / "checkpoints"
    steps = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal()) if folder.exists() else []
    if not 1 <= count <= len(steps):
        raise UserError(
            f"checkpoint {AVERAGE}{count}: {workdir} holds those of steps {steps}; "
            f"{AVERAGE}1 to {AVERAGE}{len(steps)} is allowed (config.checkpoint.keep says how many are kept)"
        )
    mean = None
    for step in steps[-count:]:
        _, found = restore_params(workdir, params, which=step)
        share = jax.tree.map(lambda x: np.asarray(x, np.float64) / count, found)
        mean = share if mean is None else jax.tree.map(np.add, mean, share)
    return steps[-1], jax.tree.map(lambda x, old: jax.device_put(x.astype(old.dtype), old.sharding), mean, found)
