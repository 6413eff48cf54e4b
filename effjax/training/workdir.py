"""A working directory holds one run: its configuration, metrics, curves, events and checkpoints."""

import json
import os
from collections.abc import Callable

from etils import epath
from ml_collections import ConfigDict

from effjax.errors import UserError
from effjax.training.config import base_config, flatten

# What may change when a run is continued: how long it goes on, where it runs and how it is watched. All but `steps`
# leave what is computed alone (to rounding, for another mesh): a cosine schedule ends at the last step, so that other
# `steps` change its learning rate from the first continued step on.
MAY_DIFFER = (
    "steps", "log_every", "max_bad_steps", "mesh.", "sharding", "eval.", "checkpoint.", "sample.", "data.path",
    "init_from",
)  # fmt: skip


def open_workdir(path: str) -> epath.Path:
    """The path of a working directory, local (made absolute) or remote such as `gs://bucket/run`."""
    return epath.Path(path if "://" in path else os.path.abspath(os.path.expanduser(path)))


def load_saved_config(workdir: epath.Path) -> ConfigDict:
    """The configuration of the run in `workdir`, locked.

    Fields of `training.config.FIELDS` that the saved file lacks take their defaults. Those of `model.*` have none here,
    since a model's fields belong to its experiment: what the file lacks stays missing.

    Raises:
      UserError: there is none, or it is not JSON.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise UserError(f"{workdir} holds no run (no config.json); give --config, or another --workdir")
    try:
        saved = _tuples(json.loads(path.read_text()))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}); restore it, or use another --workdir") from error
    config = base_config().unlock()
    config.update(saved)
    return config.lock()


def check_same_run(workdir: epath.Path, config: ConfigDict) -> None:
    """Raises UserError where `workdir` holds a run of another configuration, naming the fields that differ.

    Those in `MAY_DIFFER` are passed over; of them `steps` changes what is computed where the schedule is cosine.
    """
    if not (workdir / "config.json").exists():
        return
    old, new = flatten(load_saved_config(workdir)), flatten(_tuples(config.to_dict()))
    differ = [key for key in sorted(old | new) if old.get(key) != new.get(key) and not key.startswith(MAY_DIFFER)]
    if differ:
        pairs = ", ".join(f"{key} ({old.get(key)!r} there, {new.get(key)!r} now)" for key in differ)
        raise UserError(f"{workdir} holds another configuration: {pairs}; use another --workdir, or that configuration")


def save_config(workdir: epath.Path, config: ConfigDict) -> None:
    """Writes `config.json`, atomically, in a directory made where there is none.

    Raises:
      UserError: the directory cannot be made or written to.
    """
    try:
        replace_text(workdir / "config.json", _to_json(config))
    except OSError as error:
        raise UserError(f"the workdir {workdir} cannot be written to: {error.strerror or error}") from error


def replace_text(path: epath.Path, text: str) -> None:
    """Writes a whole file so that a reader, or a crash, sees either the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_remote(path):  # an object store replaces an object atomically
        path.write_text(text)
        return
    aside = f"{os.fspath(path)}.{os.getpid()}.tmp"
    with open(aside, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def keep_result(path: os.PathLike, make: Callable[[], dict]) -> None:
    """Writes what `make` returns as JSON, whole or not at all; where the file is already there, nothing is made."""
    path = epath.Path(path)
    if not path.exists():
        replace_text(path, json.dumps(make(), indent=1) + "\n")


def is_remote(path: epath.Path) -> bool:
    """True for `gs://…` and the like, which cannot append to a file."""
    return "://" in os.fspath(path)


def _to_json(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2) + "\n"


def _tuples(value):
    """JSON has lists only; configurations hold tuples."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
