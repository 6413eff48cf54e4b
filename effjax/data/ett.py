"""ETT: hourly load of an electricity transformer, six of its parts and the temperature of its oil.

Source: Zhou et al. 2021 (2012.07436), section 5.1, whose split (12, 4 and 4 months) ends at row 14,400.
Licence of the data: CC BY-ND 4.0.
"""

import functools

import numpy as np

from effjax.data.archives import read_archive
from effjax.data.downloads import official_file
from effjax.data.series import SeriesSet, read_csv, verify_md5

URL = "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/{}"
MD5 = {"ETTh1.csv": "8381763947c85f4be6ac456c508460d6", "ETTh2.csv": "51a229a3fc13579dd939364fefe9c7ab"}
HOURS = 20 * 30 * 24


def load(file: str, path: str | None, cache_dir: str | None = None) -> SeriesSet:
    """The seven series of one of the two hourly files."""
    name = file.removesuffix(".csv").lower()
    path = official_file(URL.format(file), name=name, path=path, cache_dir=cache_dir)
    return parse(verify_md5(read_archive(path), MD5[file], name, str(path)), name, str(path))


load_h1, load_h2 = (functools.partial(load, file) for file in MD5)


def parse(data: bytes, name: str, origin: str) -> SeriesSet:
    """The series of a file of that form, of which the first 20 months of 30 days are used."""
    series = read_csv(data, origin, name=name)
    end = np.minimum(series.end, HOURS)
    return SeriesSet(name, origin, series.step, series.names, series.values, series.times, series.first, end)
