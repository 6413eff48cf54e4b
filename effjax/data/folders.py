"""Files of an archive or a folder by name, whatever it is packed with."""

import gzip
import lzma

from etils import epath

from effjax.data.archives import DAMAGE, tar_files
from effjax.errors import UserError

TARS = (".tar", ".tar.gz", ".tgz", ".tar.xz")
UNPACK = {".gz": gzip.decompress, ".xz": lzma.decompress}


class Folder:
    """The files of a folder, or of a .tar, .tar.gz, .tgz or .tar.xz archive, found by the end of their names.

    A file may be packed by itself, as .gz or .xz.

    Args:
      path: a local path or one that epath knows (`gs://…`).

    Raises:
      UserError: it cannot be read, or is truncated or corrupt.
    """

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path).expanduser()
        self._archive = None
        if self.path.is_dir():
            self.names = sorted(_files_below(self.path, ""))
            return
        if not self.path.exists():
            raise UserError(f"{self.path}: there is no such archive or folder")
        if not self.path.name.endswith(TARS):
            raise UserError(f"{self.path} is neither a folder nor an archive ({', '.join(TARS)})")
        try:
            with self.path.open("rb") as file:
                self._archive = dict(tar_files(file))
        except (*DAMAGE, OSError) as error:
            raise UserError(f"{self.path} is truncated or corrupt: {error}") from error
        self.names = sorted(self._archive)

    def find(self, name: str) -> str | None:
        """The file whose path ends in `name`, packed or not; the one highest up where there are several."""
        ends = tuple(f"/{name}{packed}" for packed in ("", ".gz", ".xz"))
        found = [known for known in self.names if f"/{known}".endswith(ends)]
        return min(found, key=lambda known: (known.count("/"), known), default=None)

    def read(self, name: str) -> bytes:
        """The bytes of the file whose path ends in `name`, unpacked.

        Raises:
          UserError: there is none, or it is damaged.
        """
        found = self.find(name)
        if found is None:
            raise UserError(f"{self.path}: there is no file {name} (nor {name}.gz)")
        try:
            data = (self.path / found).read_bytes() if self._archive is None else self._archive[found]
            return UNPACK.get(epath.Path(found).suffix, bytes)(data)
        except (*DAMAGE, OSError) as error:
            raise UserError(f"{self.path}: {found} is truncated or corrupt: {error}") from error

    def lines(self, name: str) -> list[str]:
        """The lines of such a file, without their ends.

        Raises:
          UserError: as `read`; a file that is no UTF-8, with the line.
        """
        lines = self.read(name).removesuffix(b"\n").split(b"\n")
        try:
            return [line.decode().removesuffix("\r") for line in lines]
        except UnicodeDecodeError:
            number = next(i for i, line in enumerate(lines, 1) if not _is_utf8(line))
            raise UserError(f"{self.path}: line {number} of {name} is no UTF-8") from None


def _files_below(folder, prefix):
    """The paths of all files of a folder, from there."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files_below(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
