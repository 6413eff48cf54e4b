"""The files of a folder or of an archive of many, one after the other."""

from collections.abc import Callable, Iterator

from etils import epath

from effjax.data.archives import DAMAGE, ZipArchive, tar_files
from effjax.errors import UserError


def packed_files(path: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """The files of a folder, a `.tar` (plain, .gz, .xz, .bz2) or a `.zip`.

    Args:
      path: local, or one that epath knows.
      wanted: which names to read; of a folder they are relative to it.

    Returns:
      Iterator of names and contents, by name in a folder, in an archive as they stand there.

    Raises:
      UserError: nothing there, or an archive that is truncated or corrupt.
    """
    place = epath.Path(path).expanduser()
    if place.is_dir():
        for name in _below(place, ""):
            if wanted(name):
                yield name, (place / name).read_bytes()
        return
    if not place.exists():
        raise UserError(f"{place}: there is no such file or folder")
    last = "its beginning"
    try:
        with place.open("rb") as file:
            if place.suffix.lower() == ".zip":
                with ZipArchive(file) as archive:
                    for entry in archive.infolist():
                        if not entry.is_dir() and wanted(entry.filename):
                            yield entry.filename, archive.read(entry)
                            last = entry.filename
                return
            for name, data in tar_files(file, wanted):
                yield name, data
                last = name
    except (*DAMAGE, OSError) as error:
        raise UserError(f"{place} is truncated or corrupt after {last}: {error}") from error


def _below(folder: epath.Path, prefix: str) -> Iterator[str]:
    """The files in a folder and in those below it."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _below(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name
