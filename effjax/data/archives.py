"""Reading one file, compressed or not, or the files of a tar archive, from a disk or a bucket."""

import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

from etils import epath

from effjax.errors import UserError

# What archives raise that are cut short, damaged or locked: those of the standard library, and `ZipArchive`.
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    gzip.BadGzipFile,
)


def read_archive(path: epath.PathLike) -> bytes:
    """The bytes of a raw file, or of the one file inside a `.zip`, `.gz` or `.xz`.

    Args:
      path: a local path or one that epath knows (`gs://...`); the suffix tells the format.

    Raises:
      UserError: a file that cannot be read, is truncated or corrupt, or a .zip that does not hold exactly one file.
    """
    path = epath.Path(path).expanduser()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except Exception as error:  # a bucket's client has error types of its own
        raise UserError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    unpack = {".zip": unzip, ".gz": gzip.decompress, ".xz": lzma.decompress}.get(path.suffix.lower())
    if unpack is None:
        return data
    try:
        if not data:  # which gzip takes for no members, not for a file cut short
            raise EOFError("the file is empty")
        return unpack(data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except DAMAGE as error:
        raise UserError(f"{path} is truncated or corrupt: {error}") from error


class ZipArchive(zipfile.ZipFile):
    """A .zip archive, in which a file that cannot be unpacked is damage, as it is in archives of other kinds."""

    def open(self, *args, **kwargs):
        try:
            return super().open(*args, **kwargs)
        except RuntimeError as error:  # a password; as NotImplementedError, a way of packing that zipfile does not know
            raise zipfile.BadZipFile(str(error)) from error


def unzip(data: bytes) -> bytes:
    """The only file of a .zip archive."""
    with ZipArchive(io.BytesIO(data)) as archive:
        names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
        if len(names) != 1:
            raise UserError(f"the archive holds {len(names)} files, one is needed")
        return archive.read(names[0])


def tar_files(file: BinaryIO, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files in a tar archive, plain or packed by gzip, bzip2 or xz, as they stand there.

    Args:
      file: the archive, open and seekable.
      wanted: which names to read.

    Raises:
      one of `DAMAGE` or OSError: the archive is cut short anywhere, or corrupt.
    """
    with tarfile.open(fileobj=file, mode="r:*", tarinfo=_Member) as archive:
        for member in archive:
            if member.isfile() and wanted(member.name):
                yield member.name, archive.extractfile(member).read()
        while archive.fileobj.read(1 << 20):  # behind the last file stands the checksum
            pass


class _Member(tarfile.TarInfo):
    """A header, where `tarfile` would take one that is missing, cut off or damaged for the archive's end."""

    @classmethod
    def fromtarfile(cls, archive):
        try:
            return super().fromtarfile(archive)
        except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError, tarfile.InvalidHeaderError) as error:
            raise tarfile.ReadError(f"no end of the archive ({error})") from error
