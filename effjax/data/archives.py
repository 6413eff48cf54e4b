"""Reading one file, compressed or not, from a disk or a bucket."""

import gzip
import io
import lzma
import zipfile
import zlib

from etils import epath

from effjax.errors import UserError

# What the standard library raises on archives that are cut short, damaged or locked.
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, gzip.BadGzipFile, NotImplementedError, RuntimeError)


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


def unzip(data: bytes) -> bytes:
    """The only file of a .zip archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
        if len(names) != 1:
            raise UserError(f"the archive holds {len(names)} files, one is needed")
        return archive.read(names[0])
