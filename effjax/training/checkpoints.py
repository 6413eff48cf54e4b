"""Checkpoints: saved asynchronously, verified when read, never deleted because they are damaged.

A checkpoint holds three items: `params`, `training` (the rest of the `TrainState`) and `position` (JSON: where the data
stand, sums since the last row of metrics, the best score so far, and a fingerprint of every array).
"""

import json
import logging
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from effjax.errors import UserError
from effjax.training import release
from effjax.training.state import TrainState

ITEMS = ("params", "training", "position")


class Checkpoints:
    """The checkpoints of one run; use it as a context, which waits for the last one to be written.

    Args:
      workdir: they lie in `workdir/checkpoints`, those found damaged in `workdir/damaged_checkpoints`.
      keep: how many of the latest to keep; the best one, by `position["best"]["step"]`, is kept as well.
    """

    def __init__(self, workdir: epath.Path, keep: int):
        absl_logging.set_verbosity(absl_logging.ERROR)  # Orbax reports every file at lower levels,
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # and again what it has raised
        self._directory = workdir / "checkpoints"
        self._aside = workdir / "damaged_checkpoints"
        self._policy = _BestAndLatest(keep)
        options = ocp.CheckpointManagerOptions(preservation_policy=self._policy)
        self._manager = ocp.CheckpointManager(self._directory, options=options, item_names=ITEMS)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, None where there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, position: dict) -> None:
        """Saves a checkpoint; the arrays are copied before this returns and written behind it.

        Args:
          step: its number.
          state: global arrays on any mesh.
          position: JSON values; `position["best"]`, `{"step": …, "score": …}` or None, names the checkpoint to keep.
        """
        if position["best"]:
            self._policy.best_step = position["best"]["step"]
        text = json.dumps(position | {"fingerprint": fingerprint(state)})
        args = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            training=ocp.args.StandardSave(_without_params(state)),
            position=ocp.args.JsonSave({"text": text, "crc32": zlib.crc32(text.encode())}),
        )
        self._manager.save(step, args=args)

    def wait(self) -> None:
        """Returns when every checkpoint is written."""
        self._manager.wait_until_finished()

    def restore(self, state_of: Callable[[int], TrainState], report=print) -> tuple[int, TrainState, dict] | None:
        """Reads the newest checkpoint that is whole.

        Newer ones that are damaged are reported and moved to `damaged_checkpoints`: their steps can be saved again.

        Args:
          state_of: the state after a step, abstract, with the shardings wanted: any mesh, not only the one it was saved
            from.
          report: called with a line about each damaged checkpoint.

        Returns:
          `(step, state, position)`, or None where there is no checkpoint.

        Raises:
          UserError: there are checkpoints and none can be read; all stay where they are.
        """
        damaged = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            problem, restored, position = self._read(step, state_of(step))
            if problem is None:
                self._policy.best_step = (position["best"] or {}).get("step")
                self._set_aside(damaged, report)
                return step, restored, position
            damaged.append((step, problem))
        if damaged:
            reasons = "; ".join(f"step {step}: {problem}" for step, problem in damaged)
            raise UserError(f"no checkpoint in {self._directory} can be read ({reasons}); nothing was changed")
        return None

    def _read(self, step: int, state: TrainState):
        """`(problem, state, position)`; problem is None for a whole checkpoint, the same in every process."""
        restored, position, problem = None, None, None
        try:
            directory = self._directory / str(step)
            position = _read_position(directory)
            training = _read_arrays(directory / "training", _without_params(state))
            restored = state.replace(params=_read_arrays(directory / "params", state.params), **training)
        except Exception as error:  # whatever a damaged file makes Orbax raise
            problem = " ".join(str(error).split())[:200]
        if jax.process_count() > 1 and not multihost_utils.process_allgather(np.array(problem is None)).all():
            problem = problem or "another process cannot read its part"
        if problem is None and (altered := _altered_array(restored, position)):
            problem = f"{altered} is not what was saved"
        return problem, restored, position

    def _set_aside(self, damaged: list[tuple[int, str]], report) -> None:
        if not damaged:
            return
        for step, problem in damaged:
            target = self._aside / str(step)
            while target.exists():
                target = self._aside / f"{target.name}_again"
            if jax.process_index() == 0:
                self._aside.mkdir(exist_ok=True)
                (self._directory / str(step)).rename(target)
            report(f"checkpoint of step {step} is damaged ({problem}); moved to {target}")
        multihost_utils.sync_global_devices("damaged checkpoints set aside")
        self._manager.reload()


def restore_params(workdir: epath.Path, params, *, which: str | int = "latest"):
    """Reads the parameters of a run, for scoring and generation.

    Args:
      workdir: of the run.
      params: abstract parameters; those without a sharding go to the first device.
      which: "latest", "best" (by the valid score) or a step.

    Returns:
      `(step, params)`.

    Raises:
      UserError: there is no such checkpoint, or it is damaged or of another model.
    """
    directory = workdir / "checkpoints"
    if not directory.exists() and not (workdir / release.FILE).exists():
        raise UserError(f"{workdir} holds no checkpoints")
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or here), params)
    if (workdir / release.FILE).exists():
        return _restore_release(workdir / release.FILE, params, which)
    with ocp.CheckpointManager(directory, item_names=ITEMS) as manager:
        step = manager.latest_step()
        if step is None:
            raise UserError(f"{workdir} holds no checkpoints")
        try:
            if which == "best":
                best = _read_position(directory / str(step))["best"]
                step = best["step"] if best else step
            elif which != "latest" and not str(which).isdecimal():
                raise UserError(f"checkpoint {which!r}; latest, best or a step is allowed")
            elif which != "latest":
                step = int(which)
            if step not in manager.all_steps():
                raise UserError(f"no checkpoint of step {step} in {directory}; those are {sorted(manager.all_steps())}")
            position = _read_position(directory / str(step))
            restored = _read_arrays(directory / str(step) / "params", params)
            if altered := _altered_array({"params": restored}, position):
                raise ValueError(f"{altered} is not what was saved")
        except UserError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"checkpoint of step {step} in {directory} cannot be read: {reason}") from error
    return step, restored


def _restore_release(path: epath.Path, params, which: str | int):
    try:
        step, restored, expected = release.read_release(path, params)
        if altered := _altered_array({"params": restored}, {"fingerprint": expected}):
            raise ValueError(f"{altered} is not what was saved")
    except Exception as error:  # whatever a damaged file leads to
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())[:300]}") from error
    if str(which) not in ("latest", "best", str(step)):
        raise UserError(f"checkpoint {which!r}; {path} holds step {step} alone")
    return step, restored


def fingerprint(tree) -> dict[str, int]:
    """A checksum of each array: the sum of its words modulo 2^32, which no layout over devices changes."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = jax.device_get(_word_sums([leaf for _, leaf in leaves]))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): int(s) for (path, _), s in zip(leaves, sums)}


@jax.jit
def _word_sums(arrays):
    def word_sum(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        if x.dtype == jnp.bool_:
            x = x.astype(jnp.uint8)
        return jnp.sum(jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}"), dtype=jnp.uint32)

    return [word_sum(x) for x in arrays]


def _altered_array(tree, position: dict) -> str | None:
    """The path of an array that is not what was saved."""
    return next((path for path, value in fingerprint(tree).items() if position["fingerprint"].get(path) != value), None)


def _read_arrays(directory: epath.Path, like):
    """Reads one item without waiting for other processes: some may fail where others do not."""
    handler = ocp.StandardCheckpointHandler()
    try:
        return handler.restore(directory, args=ocp.args.StandardRestore(like))
    finally:
        handler.close()


def _read_position(directory: epath.Path) -> dict:
    item = ocp.JsonCheckpointHandler().restore(directory / "position")
    if zlib.crc32(item["text"].encode()) != item["crc32"]:
        raise ValueError("position is not what was saved")
    return json.loads(item["text"])


def _without_params(state: TrainState) -> dict:
    return {name: value for name, value in vars(state).items() if name != "params"}


class _BestAndLatest(checkpoint_managers.PreservationPolicy):
    """Keeps the latest `keep` checkpoints and the best one."""

    def __init__(self, keep: int):
        self.keep = keep
        self.best_step = None

    def should_preserve(self, checkpoints, *, context):
        latest = {checkpoint.step for checkpoint in checkpoints[-self.keep :]}
        return [checkpoint.step in latest | {self.best_step} for checkpoint in checkpoints]
