"""Imported models as working directories, which every command reads, and any working directory's model in Python."""

import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from etils import epath
from ml_collections import ConfigDict

from effjax.errors import UserError
from effjax.interop.bare_models import is_bare_model, load_bare_model
from effjax.tasks import make_task
from effjax.training.checkpoints import Checkpoints, restore_params
from effjax.training.config import set_fields
from effjax.training.optimizers import make_optimizer
from effjax.training.state import state_of_params
from effjax.training.workdir import load_saved_config, open_workdir, save_config


def load_model(workdir: str, checkpoint: str = "latest", fields: tuple = ()) -> tuple[nn.Module, dict]:
    """The model of a working directory and its parameters, for use in Python.

    Args:
      workdir: of a run, or what `effjax.convert` wrote.
      checkpoint: latest, best or a step.
      fields: pairs (field of the configuration, value) that hold instead of the saved ones, such as
        `("model.longformer.max_global", 64)`; parameters must keep their shapes.

    Returns:
      `(model, params)`: `model.apply({"params": params}, tokens)`; of a Wav2Vec2-Conformer `(encoder, variables)`:
      `encoder.apply(variables, frames)`.

    Raises:
      UserError: there is no such checkpoint, or it does not fit.
    """
    if is_bare_model(workdir):
        if fields:
            raise UserError(f"{workdir} has no configuration: fields={tuple(fields)!r}; none are allowed")
        return load_bare_model(workdir, checkpoint)
    directory = open_workdir(workdir)
    config = load_saved_config(directory).unlock()
    set_fields(config, tuple(fields), source="load_model")
    task = make_task(config.lock())
    _, params = restore_params(directory, task.abstract_params, which=checkpoint)
    return task.model, params


def save_workdir(folder: pathlib.Path, config: ConfigDict, params) -> None:
    """Writes a model as the run that begins with it: step 0, the optimizer's state as it is before the first update."""
    task = make_task(config)
    _, key = jax.random.split(jax.random.key(config.seed))
    state = state_of_params(task, make_optimizer(config), config, jax.tree.map(jnp.asarray, params), key)
    workdir = epath.Path(folder)
    with Checkpoints(workdir, config.checkpoint.keep) as checkpoints:
        checkpoints.save(0, state, {"since_row": {}, "best": None, "adapted": task.adapted})
    save_config(workdir, config)


def write_folder(target: str, write: Callable[[pathlib.Path], None]) -> None:
    """Makes a folder of what `write` puts into it: all of it or nothing.

    Args:
      target: its path, local, where nothing is yet.
      write: called with an empty folder.

    Raises:
      UserError: there is something, or the folder cannot be made.
    """
    path = pathlib.Path(os.path.abspath(os.path.expanduser(target)))
    aside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        write(aside)
        aside.chmod(0o755)
        check_absent(target)
        aside.rename(path)
    except OSError as error:
        raise UserError(f"--to={target} cannot be written: {error.strerror or error}") from error
    finally:
        if aside is not None and aside.exists():
            shutil.rmtree(aside)


def check_absent(target: str) -> None:
    """Raises UserError where a path is taken, or remote."""
    if "://" in target:
        raise UserError(f"--to={target}: a local folder is allowed; copy it there afterwards")
    if os.path.lexists(os.path.expanduser(target)):
        raise UserError(f"--to={target} exists; nothing is overwritten: name a new folder")
