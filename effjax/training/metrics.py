"""Numbers of a run: means between rows, `metrics.jsonl`, TensorBoard events."""

import json
import math
import os

import jax
from etils import epath

from effjax.errors import UserError
from effjax.training.workdir import is_remote, replace_text


class Means:
    """Weighted means of metrics over the steps since the last row.

    Steps hand in arrays still being computed; they are fetched only when a mean, or the sums, are asked for. The sums
    go into checkpoints, so that a run killed between two rows goes on to write the very same ones.

    Args:
      sums: `{name: [sum, weight]}` to begin with.
    """

    def __init__(self, sums: dict[str, list[float]] | None = None):
        self._sums = dict(sums or {})
        self._pending = []

    def add(self, metrics: dict[str, tuple[jax.Array, jax.Array]]) -> None:
        """Adds the metrics of one step, pairs (sum, weight)."""
        self._pending.append(metrics)

    def sums(self) -> dict[str, list[float]]:
        """All that was added, as `{name: [sum, weight]}`; waits for the steps."""
        for metrics in jax.device_get(self._pending):
            for name, (total, weight) in metrics.items():
                before = self._sums.get(name, (0.0, 0.0))
                self._sums[name] = [before[0] + float(total), before[1] + float(weight)]
        self._pending = []
        return self._sums

    def take(self) -> dict[str, float]:
        """The means, of those metrics that have weight; starts again from nothing."""
        means = {name: total / weight for name, (total, weight) in self.sums().items() if weight}
        self._sums = {}
        return means


class MetricsLog:
    """`metrics.jsonl`, one object a step, and the same as TensorBoard events; written by process 0 alone.

    A row is on disk before `write` returns. Rows past the restored step, and a last line cut short, are dropped first,
    in one atomic replacement: no step stands twice, and a resumed run writes what an uninterrupted one would have.

    Args:
      workdir: where `metrics.jsonl` and `tensorboard` lie.
      step: the step the run is resumed from, 0 for a new one.
    """

    def __init__(self, workdir: epath.Path, step: int):
        self.path = workdir / "metrics.jsonl"
        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        self._rows = [row for row in read_rows(self.path) if row["step"] <= step]
        self._replace()
        from tensorboardX import SummaryWriter

        self._events = SummaryWriter(os.fspath(workdir / "tensorboard"), purge_step=step + 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._writes:
            self._events.close()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes a row; where the step already has one, the values join it. Non-finite values are left out."""
        if not self._writes:
            return
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        if self._rows and self._rows[-1]["step"] == step:
            self._rows[-1] |= values
            self._replace()
        else:
            self._rows.append({"step": step} | values)
            self._append(self._rows[-1])
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        self._events.flush()

    def _append(self, row: dict) -> None:
        if is_remote(self.path):  # object stores cannot append
            self._replace()
            return
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _replace(self) -> None:
        replace_text(self.path, "".join(json.dumps(row) + "\n" for row in self._rows))


def read_rows(path: epath.Path) -> list[dict]:
    """The rows of a `metrics.jsonl`, oldest first; a last line that was cut short is left out, no file is no rows.

    Raises:
      UserError: a line before the last is not JSON.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise UserError(f"{path}, line {number}: not JSON ({error}); mend or remove the line") from error
    return rows
