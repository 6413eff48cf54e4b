"""The 414 hourly series of the M4 competition: 700 to 960 hours to learn from, 48 to forecast.

Source: Makridakis et al. 2020, The M4 Competition. The two files tell no dates: each series begins at an hour that is
called midnight, Monday, whatever it was.
"""

import csv
import io

import numpy as np
from etils import epath

from effjax.data.archives import read_archive
from effjax.data.calendar import times_from
from effjax.data.downloads import official_file
from effjax.data.series import NO_DATE, SeriesSet, series_set, verify_md5
from effjax.errors import UserError

URL = "https://raw.githubusercontent.com/Mcompetitions/M4-methods/master/Dataset/{}/{}"
MD5 = {"Hourly-train.csv": "5838f531d0a29ba6aa70a90f72c82686", "Hourly-test.csv": "d3f313cdb3417c30297ae4beec188266"}


def load(path: str | None, cache_dir: str | None = None) -> SeriesSet:
    """The series of the two official files.

    Args:
      path: the folder that holds them, as they are or compressed.
    """
    parts = []
    for file, folder in zip(MD5, ("Train", "Test")):
        own = find(path, file) if path else None
        own = official_file(URL.format(folder, file), name="m4_hourly", path=own, cache_dir=cache_dir)
        parts.append((verify_md5(read_archive(own), MD5[file], "m4_hourly", str(own)), str(own)))
    return parse(*parts)


def find(folder: str, file: str) -> str:
    """The path of a file in a folder, where it may be compressed.

    Raises:
      UserError: it is not there.
    """
    for suffix in ("", ".xz", ".gz", ".zip"):
        path = epath.Path(folder).expanduser() / (file + suffix)
        if path.exists():
            return str(path)
    raise UserError(f"{folder}: there is no file {file} in this folder")


def parse(train: tuple[bytes, str], test: tuple[bytes, str]) -> SeriesSet:
    """The series of two files of that form: a line a series, its name first, empty cells after its end.

    Args:
      train, test: the bytes and the origin of each file.

    Raises:
      UserError: a cell that is no number, or a series that one of the files lacks.
    """
    before, after = rows(*train), rows(*test)
    if missing := sorted(before.keys() ^ after.keys()):
        raise UserError(f"{train[1]} and {test[1]}: only one of them has the series {missing[0]!r}")
    values = [np.array(before[name] + after[name]) for name in before]
    longest = times_from(NO_DATE, "hour", max(len(own) for own in values))
    times = [longest[: len(own)] for own in values]
    return series_set("m4_hourly", f"{train[1]} and {test[1]}", "hour", list(before), values, times)


def rows(data: bytes, origin: str) -> dict[str, list[float]]:
    """The values of each series, by its name."""
    series = {}
    for name, *cells in list(csv.reader(io.StringIO(data.decode())))[1:]:
        while cells and not cells[-1]:
            cells.pop()
        try:
            series[name] = [float(cell) if cell else np.nan for cell in cells]
        except ValueError as error:
            raise UserError(f"{origin}: series {name!r}: {error}") from None
    if not series:
        raise UserError(f"{origin} holds no series")
    return series
