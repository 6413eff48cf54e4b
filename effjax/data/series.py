"""Sets of time series by name: found, checked, and cut into train, valid and test stretches."""

import csv
import difflib
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from effjax.data.archives import read_archive
from effjax.data.calendar import step_of, times_from
from effjax.errors import UserError

NO_DATE = np.datetime64("2000-01-03T00:00")  # where series begin whose dates are not told: a Monday, midnight


@dataclass(frozen=True)
class SeriesSet:
    """Series of one step; each has a number, by which a model knows it.

    Args:
      name: as in the configuration.
      origin: the file they come from, for errors.
      step: between two values, a name of `effjax.data.calendar.STEPS` or "business_day".
      names: of the series.
      values: of each series, `[n]` float32, finite.
      times: of the values, `[n]` datetime64[m] each.
      first: index of each series' first value; what stands before it was not measured.
      end: where the test stretch of each series ends.
    """

    name: str
    origin: str
    step: str
    names: tuple[str, ...]
    values: tuple[np.ndarray, ...]
    times: tuple[np.ndarray, ...]
    first: np.ndarray
    end: np.ndarray

    def __len__(self) -> int:
        return len(self.names)


def series_set(
    name: str,
    origin: str,
    step: str,
    names: Sequence[str],
    values: Sequence[np.ndarray],
    times: Sequence[np.ndarray],
    *,
    first: Sequence[int] | None = None,
    end: Sequence[int] | None = None,
) -> SeriesSet:
    """A set of series whose values are finite.

    Args:
      first, end: see `SeriesSet`; None: the whole of each series.

    Raises:
      UserError: a value that is NaN or infinite: file, series and row are named.
    """
    for series, own, when in zip(names, values, times, strict=True):
        check_finite(origin, series, own, when)
    first = np.zeros(len(names), np.int64) if first is None else np.asarray(first, np.int64)
    end = np.array([len(own) for own in values]) if end is None else np.asarray(end, np.int64)
    values = tuple(np.asarray(own, np.float32) for own in values)
    return SeriesSet(name, origin, step, tuple(names), values, tuple(times), first, end)


def check_finite(origin: str, series: str, values: np.ndarray, times: np.ndarray) -> None:
    """Raises UserError at the first value that is no number."""
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        row = int(bad[0])
        more = f", and {bad.size - 1} more values of the series like it" if bad.size > 1 else ""
        raise UserError(f"{origin}: series {series!r} is {values[row]} in row {row + 1} ({times[row]}){more}")


def load_series(name: str, *, path: str | None = None, cache_dir: str | None = None) -> SeriesSet:
    """Reads a set of series and checks that it is the one it should be.

    Args:
      name: "seattle_weather", which ships with the package; "electricity", "traffic", "etth1", "etth2",
        "exchange_rate", "m4_hourly": official files, downloaded once or read from `path`; "series_csv": any CSV file
        given by `path`, see `read_csv`.
      path: the official archive or file, where it is not to be downloaded; compressed or not.
      cache_dir: where downloads are kept; None: as TensorFlow Datasets has it.

    Raises:
      UserError: an unknown name, missing, damaged or other data, a value that is no number.
    """
    if name not in sources():
        near = difflib.get_close_matches(name, sources(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"no series {name!r}, only {', '.join(sources())}{hint}")
    return sources()[name](path, cache_dir)


def sources() -> dict[str, Callable[[str | None, str | None], SeriesSet]]:
    """The readers of the data sets, by name."""
    # They import this file.
    from effjax.data import electricity, ett, exchange_rate, m4_hourly, seattle_weather, traffic

    return {
        "seattle_weather": seattle_weather.load,
        "electricity": electricity.load,
        "traffic": traffic.load,
        "etth1": ett.load_h1,
        "etth2": ett.load_h2,
        "exchange_rate": exchange_rate.load,
        "m4_hourly": m4_hourly.load,
        "series_csv": load_csv,
    }


def known_series(name: str, *, path: str | None = None) -> tuple[str, tuple[str, ...]]:
    """The step of a set, and the names of its series in order, without reading the official data."""
    known = {
        "seattle_weather": ("day", ("precipitation", "temp_max", "temp_min", "wind")),
        "electricity": ("hour", tuple(f"MT_{i:03}" for i in range(1, 371))),
        "traffic": ("hour", tuple(f"sensor_{i}" for i in range(963))),
        "exchange_rate": ("business_day", tuple(f"rate_{i}" for i in range(8))),
        "m4_hourly": ("hour", tuple(f"H{i}" for i in range(1, 415))),
    } | dict.fromkeys(("etth1", "etth2"), ("hour", ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")))
    if name in known:
        return known[name]
    series = load_series(name, path=path)
    return series.step, series.names


def verify_md5(data: bytes, md5: str, name: str, origin: str) -> bytes:
    """`data` itself, if it is the official file.

    Raises:
      UserError: it is not.
    """
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5:
        hint = "series of your own are read with --config.data.name=series_csv"
        raise UserError(f"{origin} has md5 {found}, {name} has {md5}; {hint}")
    return data


def load_csv(path: str | None, cache_dir: str | None = None) -> SeriesSet:
    """The series of any CSV file."""
    del cache_dir
    if not path:
        raise UserError("the series series_csv need a file: give --config.data.path=")
    return read_csv(read_archive(path), path)


def read_csv(data: bytes, origin: str, *, name: str = "series_csv", step: str = "hour") -> SeriesSet:
    """Series from the columns of a CSV file.

    The first line names the columns. Where the first column does not hold numbers, it holds the times (ISO 8601), at
    equal distances; else rows are a `step` apart and their date is not known.

    Args:
      data: the bytes of the file.
      origin: where they come from, for errors.
      name: of the set.
      step: of rows without times.

    Raises:
      UserError: no series, a cell that is missing or no number, times at unequal distances; row and series are named.
    """
    try:
        rows = [row for row in csv.reader(io.StringIO(data.decode("utf-8-sig"))) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{origin} is no CSV text: {error}") from error
    if len(rows) < 2:
        raise UserError(f"{origin}: {len(rows)} lines; a line of names and rows of values are needed")
    header, rows = [cell.strip() for cell in rows[0]], rows[1:]
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise UserError(f"{origin}: row {number} has {len(row)} cells, the first line names {len(header)}")
    dated = not _is_number(rows[0][0])
    names = header[dated:]
    if not names:
        raise UserError(f"{origin}: there is no column of numbers")
    if dated:
        times = np.array([_time(row[0], number, origin) for number, row in enumerate(rows, 1)])
        step = step_of(times, origin)
    else:
        times = times_from(NO_DATE, step, len(rows))
    columns = []
    for i, series in enumerate(names, int(dated)):
        columns.append(np.array([_number(row[i], number, series, origin) for number, row in enumerate(rows, 1)]))
    return series_set(name, origin, step, names, columns, [times] * len(names))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return not cell.strip()  # a missing value; times are never missing
    return True


def _number(cell: str, row: int, series: str, origin: str) -> float:
    if not cell.strip():
        return np.nan
    try:
        return float(cell)
    except ValueError:
        raise UserError(f"{origin}: series {series!r} is {cell!r} in row {row}, which is no number") from None


def _time(cell: str, row: int, origin: str) -> np.datetime64:
    try:
        return np.datetime64(cell.strip().replace("/", "-"), "m")
    except ValueError:
        raise UserError(f"{origin}: {cell!r} in row {row} is no time such as 2016-07-01 00:00:00") from None
