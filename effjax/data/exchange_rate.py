"""Exchange rates of eight countries' currencies, working days of 1990 to 2016.

Source: Lai et al. 2018 (1703.07015), section 4.2: Australia, Britain, Canada, Switzerland, China, Japan, New Zealand,
Singapore. The file has no dates: working days are counted from 1990-01-01 on, which is what others do.
"""

import numpy as np

from effjax.data.archives import read_archive
from effjax.data.calendar import times_from
from effjax.data.downloads import official_file
from effjax.data.series import SeriesSet, series_set, verify_md5
from effjax.errors import UserError

URL = "https://raw.githubusercontent.com/laiguokun/multivariate-time-series-data/master/exchange_rate/exchange_rate.txt.gz"
MD5 = "b90abc8b54bc847dac36f8d37c11c009"
START = np.datetime64("1990-01-01")


def load(path: str | None, cache_dir: str | None = None) -> SeriesSet:
    """The eight series of the official file."""
    path = official_file(URL, name="exchange_rate", path=path, cache_dir=cache_dir)
    return parse(verify_md5(read_archive(path), MD5, "exchange_rate", str(path)), str(path))


def parse(data: bytes, origin: str) -> SeriesSet:
    """The series of a file of that form: a line a day, numbers with commas.

    Raises:
      UserError: a line that is not; its number is named.
    """
    rows = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            rows.append([float(cell) for cell in line.split(b",")])
        except ValueError as error:
            raise UserError(f"{origin}: line {number}: {error}") from None
        if len(rows[-1]) != len(rows[0]):
            raise UserError(f"{origin}: line {number} has {len(rows[-1])} numbers, the first one {len(rows[0])}")
    if not rows:
        raise UserError(f"{origin} is empty")
    values = np.array(rows).T
    times = times_from(START, "business_day", len(rows))
    names = [f"rate_{i}" for i in range(len(values))]
    return series_set("exchange_rate", origin, "business_day", names, values, [times] * len(values))
