"""Electricity: what 370 clients drew, every 15 minutes of 2011 to 2014, added up to hours.

The protocol of DeepAR and its successors: hours up to 2014-08-31 to learn from, 2014-09-01 to 07 to forecast. Not to be
confused with the copy of 321 series from 2012 on (Lai et al. 2018), which has other scores.

Source: UCI Machine Learning Repository, data set 321; Salinas et al. 2020 (1704.04110), section 4.
"""

import numpy as np
from etils import epath

from effjax.data.archives import DAMAGE, ZipArchive
from effjax.data.downloads import official_file
from effjax.data.series import SeriesSet, series_set
from effjax.errors import UserError

URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/00321/LD2011_2014.txt.zip"
CLIENTS = 370
END = np.datetime64("2014-09-08T00:00")
QUARTER = np.timedelta64(15, "m")


def load(path: str | None, cache_dir: str | None = None) -> SeriesSet:
    """The hourly series of the official archive.

    Args:
      path: LD2011_2014.txt.zip, or the text file out of it.

    Raises:
      UserError: an archive that is missing, damaged or holds other series.
    """
    file = official_file(URL, name="electricity", path=path, cache_dir=cache_dir)
    series = parse(file)
    if len(series) != CLIENTS:
        raise UserError(f"{file} holds {len(series)} series, electricity has {CLIENTS}")
    if series.times[0][-1] < END:
        raise UserError(f"{file} ends at {series.times[0][-1]}: it is cut short, electricity goes beyond {END}")
    return series


def parse(file: epath.PathLike, *, end: np.datetime64 = END) -> SeriesSet:
    """Hourly sums of a file of that form, up to `end`.

    A value stands at the end of its quarter: those from 00:15 to 01:00 make the hour of 00:00. A client's series begins
    with its first value that is not 0.

    Raises:
      UserError: a damaged file, or a line that is not of the form; its number is named.
    """
    file = epath.Path(file)
    try:
        with file.open("rb") as raw:
            if file.suffix == ".zip":
                with ZipArchive(raw) as archive:
                    names = [name for name in archive.namelist() if name.endswith("LD2011_2014.txt")]
                    if len(names) != 1:
                        raise UserError(f"{file}: there is no file LD2011_2014.txt in this archive")
                    with archive.open(names[0]) as text:
                        names, times, hours = read_hours(text, str(file), end)
            else:
                names, times, hours = read_hours(raw, str(file), end)
    except UserError:
        raise
    except DAMAGE as error:
        raise UserError(f"{file} is truncated or corrupt: {error}") from error
    first = np.where((hours != 0).any(0), (hours != 0).argmax(0), len(hours))
    if silent := [name for name, index in zip(names, first) if index == len(hours)]:
        raise UserError(f"{file}: series {silent[0]!r} is 0 in every row")
    stop = np.full(len(names), np.searchsorted(times, end))
    return series_set("electricity", str(file), "hour", names, hours.T, [times] * len(names), first=first, end=stop)


def read_hours(text, origin: str, end: np.datetime64) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, times and sums `[hours, clients]`; numbers have a decimal comma."""
    names = [cell.strip('"') for cell in text.readline().decode().strip().split(";")][1:]
    times, hours = [], []
    for number, line in enumerate(text, 2):
        stamp, *cells = line.decode().replace(",", ".").strip().split(";")
        if len(cells) != len(names):
            raise UserError(f"{origin}: line {number} has {len(cells)} values, the first line names {len(names)}")
        try:
            time = np.datetime64(stamp.strip('"'), "m") - QUARTER
            values = np.array(cells, np.str_).astype(np.float64)
        except ValueError as error:
            raise UserError(f"{origin}: line {number}: {error}") from None
        hour = time.astype("M8[h]").astype("M8[m]")
        if hour > end:
            break
        if not times or times[-1] != hour:
            if times and hour - times[-1] != np.timedelta64(60, "m"):
                raise UserError(f"{origin}: line {number} ({stamp}) does not follow the line before")
            times.append(hour)
            hours.append(np.zeros(len(names)))
        hours[-1] += values
    if not times:
        raise UserError(f"{origin} holds no values")
    return names, np.array(times), np.array(hours)
