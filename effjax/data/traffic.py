"""Traffic: how occupied 963 lanes of San Francisco's freeways were, every 10 minutes, as hourly means.

The archive holds 440 days of January 2008 to March 2009 in random order, a permutation that undoes it, and the weekday
of each; 15 days (public holidays, two with mute sensors) are missing. Dates follow from the weekdays: no week is
missing as a whole. Weekdays count from Sunday, 1, whatever the archive's description says: only so do the days fit
between the dates it names.

Source: UCI Machine Learning Repository, data set 204 (PEMS-SF); the protocol of Li et al. 2019 (1907.00235), appendix:
seven days from 2008-06-15 on are forecast.
"""

import numpy as np
from etils import epath

from effjax.data.archives import DAMAGE, ZipArchive
from effjax.data.downloads import official_file
from effjax.data.series import SeriesSet, series_set
from effjax.errors import UserError

URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/00204/PEMS-SF.zip"
SENSORS, DAYS = 963, 440
FIRST, LAST = np.datetime64("2008-01-01"), np.datetime64("2009-03-30")
END = np.datetime64("2008-06-22T00:00")
FILES = ("PEMS_train", "PEMS_test", "PEMS_trainlabels", "PEMS_testlabels", "randperm")


def load(path: str | None, cache_dir: str | None = None) -> SeriesSet:
    """The hourly series of the official archive.

    Args:
      path: PEMS-SF.zip, or a folder with the files out of it.

    Raises:
      UserError: an archive that is missing, damaged or holds other days.
    """
    file = official_file(URL, name="traffic", path=path, cache_dir=cache_dir)
    series = parse(file)
    days = len(series.times[0]) // 24
    if (len(series), days, series.times[0][-1].astype("M8[D]")) != (SENSORS, DAYS, LAST):
        raise UserError(
            f"{file} holds {len(series)} series of {days} days up to {series.times[0][-1]}, "
            f"traffic has {SENSORS} of {DAYS} days up to {LAST}"
        )
    return series


def parse(file: epath.PathLike, *, end: np.datetime64 = END) -> SeriesSet:
    """Hourly means of files of that form.

    Raises:
      UserError: a missing or damaged file, or one that does not fit the others.
    """
    file = epath.Path(file)
    train, test, *rest = (read(file, name) for name in FILES)
    days = [day for name, text in zip(FILES, (train, test)) for day in matrices(text, f"{file}, {name}")]
    labels = [numbers(text, f"{file}, {name}") for name, text in zip(FILES[2:], rest)]
    weekdays, order = np.concatenate(labels[:2]).astype(int), labels[2].astype(int)
    if not len(days) == len(weekdays) == len(order) or sorted(order) != list(range(1, len(days) + 1)):
        raise UserError(f"{file}: {len(days)} days, {len(weekdays)} labels and a permutation of {len(order)} differ")
    calendar = np.argsort(order)
    dates = dates_of(weekdays[calendar])
    lanes = np.stack([days[i] for i in calendar], axis=1)  # [sensors, days, 144]
    hours = lanes.reshape(len(lanes), -1, 6).mean(-1)
    times = (dates[:, None].astype("M8[m]") + np.arange(24) * np.timedelta64(60, "m")).reshape(-1)
    names = [f"sensor_{i}" for i in range(len(hours))]
    stop = np.full(len(names), np.searchsorted(times, end))
    return series_set("traffic", str(file), "hour", names, hours, [times] * len(names), end=stop)


def read(file: epath.Path, name: str) -> str:
    """The text of one of the files, from the archive or a folder."""
    try:
        if file.is_dir():
            return (file / name).read_text()
        with file.open("rb") as raw, ZipArchive(raw) as archive:
            return archive.read(name).decode()
    except (KeyError, FileNotFoundError):
        raise UserError(f"{file}: there is no file {name} in it") from None
    except DAMAGE as error:
        raise UserError(f"{file} is truncated or corrupt: {error}") from error


def matrices(text: str, origin: str):
    """The days of a file, `[sensors, 144]` each: a line `[a b …;c d …]`."""
    shape = None
    for number, line in enumerate(text.splitlines(), 1):
        try:
            day = np.array([row.split() for row in line.strip("[] ").split(";")], np.str_).astype(np.float64)
        except ValueError as error:
            raise UserError(f"{origin}: line {number} is no matrix of numbers: {error}") from None
        shape = shape or day.shape
        if day.shape != shape or day.shape[1] != 144:
            raise UserError(f"{origin}: line {number} is a matrix of {day.shape}; {(shape[0], 144)} is needed")
        yield day


def numbers(text: str, origin: str) -> np.ndarray:
    """The integers of a file `[a b …]`."""
    try:
        return np.array(text.strip("[] \n").split(), np.str_).astype(np.int64)
    except ValueError as error:
        raise UserError(f"{origin} is no list of integers: {error}") from None


def dates_of(weekdays: np.ndarray) -> np.ndarray:
    """The dates of days in order, each the first after the one before that has its weekday (1: Sunday)."""
    first = (FIRST.astype(np.int64) + 4) % 7  # 1970-01-01, number 0, was a Thursday: 4 with Sunday at 0
    steps = np.diff(weekdays - 1, prepend=first) % 7
    steps[1:][steps[1:] == 0] = 7
    return FIRST + np.cumsum(steps)
