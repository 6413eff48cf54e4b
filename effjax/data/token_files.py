"""Texts in tokens, as three files `wiki.{train,valid,test}.tokens`: WikiText-103 and whatever has its form."""

import hashlib
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from etils import epath

from effjax.data.archives import DAMAGE, ZipArchive
from effjax.data.words import WordVocabulary
from effjax.errors import UserError

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class TokenText:
    """A published text of that form.

    Args:
      name: as in the configuration.
      url: the official archive.
      sha256: of the archive.
      lines: number of lines of the train, valid and test parts.
    """

    name: str
    url: str
    sha256: str
    lines: tuple[int, int, int]

    other_forms = "an unpacked folder works too"

    def verify_archive(self, data: bytes, origin: str) -> bytes:
        """`data` itself, if it is the official archive to the byte.

        Raises:
          UserError: it is not; `origin` says where it came from.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != self.sha256:
            raise UserError(f"{origin} has sha256 {sha256}, {self.name} has {self.sha256}; {HINT}")
        return data

    def verify(self, data: bytes, origin: str) -> bytes:
        """`data` itself, the three parts in a row, if it has as many lines as they have.

        Raises:
          UserError: it has not.
        """
        lines = data.count(b"\n")
        if lines != sum(self.lines):
            raise UserError(f"{origin} holds {lines:,} lines, {self.name} has {sum(self.lines):,}; {HINT}")
        return data


HINT = "files of your own of this form are read with --config.data.name=token_files"
# Checksum and size of the archive as several public loaders of it have them.
WIKITEXT103 = TokenText(
    "wikitext103",
    "https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-103-v1.zip",
    "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
    (1_801_350, 3_760, 4_358),
)


class TokenFiles:
    """The three parts in an archive or a folder, and what is derived from them, kept beside it.

    Args:
      path: a .zip archive or a folder, local or one that epath knows.
      text: the published text that it must be; None: any.

    Raises:
      UserError: it cannot be read, or is not that text.
    """

    def __init__(self, path: epath.PathLike, text: TokenText | None = None):
        self.path, self.text = epath.Path(path).expanduser(), text
        self.archive = None
        if self.path.is_dir():
            return
        try:
            self.archive = self.path.read_bytes()
        except FileNotFoundError:
            raise UserError(f"{self.path}: there is no such file or folder") from None
        except Exception as error:  # a bucket's client has error types of its own
            raise UserError(f"{self.path} cannot be read: {type(error).__name__}: {error}") from error
        if text is not None:
            text.verify_archive(self.archive, str(self.path))

    def parts(self) -> dict[str, bytes]:
        """The raw bytes of each split.

        Raises:
          UserError: a file that is missing or damaged, or parts that are not those of the text.
        """
        parts = self._unzip() if self.archive is not None else {name: self._read(name) for name in SPLITS}
        if self.text is not None:
            self.text.verify(b"".join(parts.values()), str(self.path))
        return parts

    def words(self, vocabulary: WordVocabulary) -> tuple[WordVocabulary, dict[str, np.ndarray], dict[str, int]]:
        """The words of the train part, each part in ids, and the length of each in bytes.

        They are derived once and kept beside the text, for it takes minutes.
        """
        name = f"words-{vocabulary.size}.npz"
        derived = self.path / name if self.archive is None else self.path.with_name(f"{self.path.stem}.{name}")
        return derive_words(vocabulary, derived, self._fingerprint(), self.parts)

    def _fingerprint(self) -> str:
        data = [self.archive] if self.archive is not None else [self._read(name) for name in SPLITS]
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in data)).hexdigest()

    def _read(self, split) -> bytes:
        path = self.path / f"wiki.{split}.tokens"
        if not path.exists():
            raise UserError(f"{self.path}: there is no file {path.name} in this folder")
        return path.read_bytes()

    def _unzip(self) -> dict[str, bytes]:
        try:
            with ZipArchive(io.BytesIO(self.archive)) as archive:
                entries = {os.path.basename(name): name for name in archive.namelist()}
                missing = [name for split in SPLITS if (name := f"wiki.{split}.tokens") not in entries]
                if missing:
                    raise UserError(f"{self.path}: there is no file {missing[0]} in this archive")
                return {split: archive.read(entries[f"wiki.{split}.tokens"]) for split in SPLITS}
        except DAMAGE as error:
            raise UserError(f"{self.path} is truncated or corrupt: {error}") from error


def derive_words(
    vocabulary: WordVocabulary, derived: epath.Path, fingerprint: str, read_parts: Callable[[], dict[str, bytes]]
) -> tuple[WordVocabulary, dict[str, np.ndarray], dict[str, int]]:
    """The words of the train part, each part in ids, and the length of each in bytes; from a file if it has them."""
    if derived.exists() and (known := load_derived(derived, fingerprint, vocabulary)) is not None:
        return known
    parts = read_parts()
    vocabulary = vocabulary.learn(parts["train"])
    splits = {split: vocabulary.encode(part, end_of_file=True) for split, part in parts.items()}
    result = vocabulary, splits, {split: len(part) for split, part in parts.items()}
    try:
        save_derived(derived, fingerprint, *result)
    except OSError as error:  # such as a folder that is only to be read from
        print(f"{derived} cannot be written ({error}): the text will be read anew next time", file=sys.stderr)
    return result


def save_derived(path: epath.Path, fingerprint: str, vocabulary: WordVocabulary, splits, sizes) -> None:
    """Writes what `load_derived` reads, all or nothing."""
    buffer = io.BytesIO()
    about = json.dumps({"fingerprint": fingerprint, "words": vocabulary.words, "bytes": sizes})
    np.savez(buffer, about=np.frombuffer(about.encode(), np.uint8), **splits)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_bytes(buffer.getvalue())
    unfinished.replace(path)


def load_derived(path: epath.Path, fingerprint: str, vocabulary: WordVocabulary):
    """What was derived from a text of that fingerprint; None where the file is another text's.

    Raises:
      UserError: a damaged file.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes())) as arrays:
            about = json.loads(arrays["about"].tobytes())
            if about["fingerprint"] != fingerprint:
                return None
            words = WordVocabulary(vocabulary.size, tuple(about["words"]))
            return words, {split: arrays[split] for split in SPLITS}, about["bytes"]
    except (*DAMAGE, ValueError, KeyError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it, and it is derived anew") from error
