"""Four years of Seattle's weather, day by day: rain, highest and lowest temperature, wind. Ships with the package."""

from pathlib import Path

from effjax.data.archives import read_archive
from effjax.data.series import SeriesSet, read_csv
from effjax.errors import UserError

FILE = Path(__file__).parent / "sample" / "seattle_weather.csv.xz"


def load(path: str | None, cache_dir: str | None = None) -> SeriesSet:
    """The series; neither a path nor a download is needed."""
    del cache_dir
    if path:
        raise UserError(f"seattle_weather ships with effjax and takes no path; for {path} give another data.name")
    return read_csv(read_archive(FILE), str(FILE), name="seattle_weather")
