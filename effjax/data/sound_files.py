"""Reading sound files, and folders or archives of them."""

import io
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from etils import epath

from effjax.data.archives import DAMAGE, tar_files
from effjax.errors import UserError


def read_sound(data: bytes, name: str, sample_rate: int) -> np.ndarray:
    """The samples of a sound file, `[L]` float32 in [-1, 1].

    Args:
      data: a wav, flac or NIST sphere file.
      name: for errors.
      sample_rate: what it has to be, in Hz.

    Raises:
      UserError: a file that cannot be read or is cut short, of another sample rate, of several channels, or empty.
    """
    import soundfile  # here, since it needs a system library where its wheel brings none

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, channels, length = file.samplerate, file.channels, file.frames
            samples = file.read(dtype="float32")
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise UserError(f"{name} is no sound file that can be read: {error}") from error
    if rate != sample_rate:
        raise UserError(f"{name} has {rate} samples a second; {sample_rate} are needed")
    if channels != 1:
        raise UserError(f"{name} has {channels} channels; 1 is needed")
    if not length or len(samples) != length:
        raise UserError(f"{name} holds {len(samples)} of {length} samples")
    if data[:4] == b"RIFF" and len(data) < 8 + int.from_bytes(data[4:8], "little"):  # which libsndfile reads as it is
        raise UserError(f"{name} is truncated: {len(data)} bytes of {8 + int.from_bytes(data[4:8], 'little')}")
    if not np.isfinite(samples).all():
        raise UserError(f"{name} holds samples that are not finite")
    return samples


class Files:
    """The files below a folder, or in a `.tar`, `.tar.gz`, `.tar.xz` archive, which is read whole, by relative path.

    Raises:
      UserError: there is no such folder or archive, or it is truncated or corrupt.
    """

    def __init__(self, path: str):
        if not path:
            raise UserError("this corpus is read from an archive or a folder: give --config.data.path=")
        self.root, self._members = epath.Path(path).expanduser(), None
        if self.root.is_dir():
            return
        try:
            with self.root.open("rb") as file:
                self._members = {name.removeprefix("./"): data for name, data in tar_files(file)}
        except FileNotFoundError:
            raise UserError(f"{path}: there is no such file or folder") from None
        except (*DAMAGE, OSError) as error:
            raise UserError(f"{path} is truncated, corrupt or no tar archive: {error}") from error

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        try:
            return (self.root / name).read_bytes() if self._members is None else self._members[name]
        except (FileNotFoundError, KeyError):
            raise UserError(f"{self.root} holds no {name}") from None

    def open(self, name: str) -> BinaryIO:
        """A file to read from its beginning, such as its header, without the rest of it."""
        return (self.root / name).open("rb") if self._members is None and name in self else io.BytesIO(self.read(name))

    def text(self, name: str) -> str:
        """A text file."""
        try:
            return self.read(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{self.root}: {name} is no UTF-8: {error}") from error

    def names(self, suffix: str) -> list[str]:
        """Relative paths that end so, sorted."""
        every = self._members if self._members is not None else _below(self.root, "")
        return sorted(name for name in every if name.endswith(suffix))

    def __contains__(self, name: str) -> bool:
        return (self.root / name).exists() if self._members is None else name in self._members


def _below(folder: epath.Path, prefix: str) -> Iterator[str]:
    """Relative paths of all files below a folder."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from _below(path, f"{prefix}{path.name}/")
        else:
            yield f"{prefix}{path.name}"
