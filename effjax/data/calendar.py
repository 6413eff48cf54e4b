"""When the values of a series were measured, and what of that a model is told."""

import numpy as np

from effjax.errors import UserError

STEPS = {  # of equal length; business days are counted apart
    "10min": np.timedelta64(10, "m"),
    "15min": np.timedelta64(15, "m"),
    "hour": np.timedelta64(60, "m"),
    "day": np.timedelta64(24 * 60, "m"),
    "week": np.timedelta64(7 * 24 * 60, "m"),
}


def _since(times, unit, within):
    """Whole `unit`s since the beginning of the `within` that a time lies in."""
    return (times - times.astype(f"M8[{within}]")).astype(f"m8[{unit}]").astype(np.int64)


# What a time has, and how many values that takes; each counts from 0.
COVARIATES = {
    "minute": (lambda times: _since(times, "m", "h"), 60),
    "hour": (lambda times: _since(times, "h", "D"), 24),
    "weekday": (lambda times: (times.astype("M8[D]").astype(np.int64) + 3) % 7, 7),  # 1970 began on a Thursday
    "day": (lambda times: _since(times, "D", "M"), 31),
    "month": (lambda times: times.astype("M8[M]").astype(np.int64) % 12, 12),
    "yearday": (lambda times: _since(times, "D", "Y"), 366),
}


def times_from(start: np.datetime64, step: str, n: int) -> np.ndarray:
    """The `n` times, datetime64[m], that begin with `start` and are a step apart.

    Args:
      start: the first one; of business days, the first working day from there on.
      step: a name of `STEPS`, or "business_day".
      n: how many.
    """
    if step == "business_day":
        return np.busday_offset(start.astype("M8[D]"), np.arange(n), roll="forward").astype("M8[m]")
    return start.astype("M8[m]") + np.arange(n) * STEPS[step]


def times_after(last: np.datetime64, step: str, n: int) -> np.ndarray:
    """The `n` times that follow `last`."""
    return times_from(last, step, n + 1)[1:]


def step_of(times: np.ndarray, origin: str) -> str:
    """The step between times, by name.

    Raises:
      UserError: times that are not a step of `STEPS`, or a working day, apart; the row is named.
    """
    if len(times) < 2:
        raise UserError(f"{origin}: {len(times)} rows; at least 2 are needed to see how far apart they are")
    steps = (*STEPS, "business_day")
    likely = [step for step in steps if times_from(times[0], step, 2)[1] == times[1]]  # days may be working days
    if not likely:
        allowed = ", ".join(steps)
        raise UserError(f"{origin}: rows 1 and 2 are {times[1] - times[0]} apart; one of {allowed} is allowed")
    wrong = {step: np.flatnonzero(times_from(times[0], step, len(times)) != times) for step in likely}
    for step in likely:
        if not wrong[step].size:
            return step
    row = max(int(rows[0]) for rows in wrong.values()) + 1
    raise UserError(f"{origin}: row {row} ({times[row - 1]}) does not follow row {row - 1} as the rows before do")


def check_covariates(names: tuple[str, ...]) -> None:
    """Raises UserError for a covariate that does not exist."""
    for name in names:
        if name not in (*COVARIATES, "age"):
            raise UserError(f"there is no covariate {name!r}; any of {', '.join((*COVARIATES, 'age'))} is allowed")


def calendar(times: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """One number for each time and covariate, `[n, C]` float32, of mean 0 and deviation 1 over its values; "age" is 0,
    see `ages`."""
    columns = np.zeros((len(times), len(names)), np.float32)
    for column, name in zip(columns.T, names):
        if name != "age":
            of, n = COVARIATES[name]
            column[:] = (of(times) - (n - 1) / 2) / np.sqrt((n * n - 1) / 12)
    return columns


def ages(indices: np.ndarray, first: np.ndarray) -> np.ndarray:
    """`log10(2 + steps since the first value)`, 0 before it.

    Args:
      indices: of the values, `[b, T]`.
      first: of each series' first value, `[b]`.
    """
    steps = indices - first[:, None]
    return np.where(steps >= 0, np.log10(2.0 + np.maximum(steps, 0)), 0.0).astype(np.float32)
