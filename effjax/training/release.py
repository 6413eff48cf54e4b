"""A working directory with parameters alone, in one safetensors file: what a run becomes when it is made smaller.

Bytes on disk are those in memory and a header. There are no checkpoints in it: nothing goes on from here.
"""

import json
import os
import pathlib
import shutil

import jax
import safetensors.flax
from etils import epath

from effjax.errors import UserError
from effjax.training.workdir import is_remote, save_config

FILE = "params.safetensors"


def check_release(out: epath.Path) -> None:
    """Raises UserError where there is something that a release would overwrite."""
    if is_remote(out):
        raise UserError(f"{out} is remote; give a local directory, and copy it afterwards")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty; give a new directory")


def write_release(
    out: epath.Path, config, step: int, params, fingerprint: dict[str, int], *, files: tuple[epath.Path, ...] = ()
) -> int:
    """Writes a working directory that `evaluate` and `generate` load; it appears whole or not at all.

    Args:
      out: a directory that is empty or does not exist.
      config: of the run.
      step: the step that the parameters are of.
      params: arrays; integers too.
      fingerprint: from `effjax.training.checkpoints.fingerprint`.
      files: of the run's directory, local or remote, that go with the parameters, `effjax.tasks.task.Task.files`.

    Returns:
      Bytes of the file of parameters.

    Raises:
      UserError: see `check_release`; or it cannot be written.
    """
    check_release(out)
    aside = pathlib.Path(f"{os.fspath(out)}.{os.getpid()}.partial")
    leaves = jax.tree_util.tree_leaves_with_path(params)
    tensors = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    try:
        save_config(epath.Path(aside), config)
        for file in files:
            (aside / file.name).write_bytes(file.read_bytes())
        metadata = {"step": str(step), "fingerprint": json.dumps(fingerprint)}
        safetensors.flax.save_file(tensors, aside / FILE, metadata)
        size = (aside / FILE).stat().st_size
        if out.exists():
            out.rmdir()
        aside.rename(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return size


def read_release(path: epath.Path, params) -> tuple[int, dict, dict[str, int]]:
    """Reads what `write_release` wrote.

    Args:
      path: of the file.
      params: abstract arrays with shardings, which say what is expected and where it goes.

    Returns:
      `(step, params, fingerprint)`.

    Raises:
      ValueError: tensors are missing, or unknown, or of another shape or type.
    """
    problems = []
    with safetensors.safe_open(path, framework="flax") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}

    def read(path, like):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        tensor = tensors.pop(name, None)
        if tensor is None or tensor.shape != like.shape or tensor.dtype != like.dtype:
            found = "missing" if tensor is None else f"{tensor.dtype} {tensor.shape}"
            problems.append(f"{name} is {found} instead of {like.dtype} {like.shape}")
            return None
        return jax.device_put(tensor, like.sharding)

    restored = jax.tree_util.tree_map_with_path(read, params)
    problems += [f"{name} is unknown" for name in tensors]
    if problems:
        raise ValueError("; ".join(problems))
    return int(metadata["step"]), restored, json.loads(metadata["fingerprint"])
