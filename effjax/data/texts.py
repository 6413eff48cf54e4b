"""What makes a text the official one: where it comes from, its length, its md5, its splits."""

import hashlib
from dataclasses import dataclass

from effjax.errors import UserError


@dataclass(frozen=True)
class OfficialText:
    """A published text and its split, by byte and in order.

    Args:
      name: as in the configuration.
      url: the official archive; empty for a text that ships with the package.
      md5: of the raw bytes, hexadecimal.
      split_bytes: length of the train, valid and test parts, which make up the whole.
    """

    name: str
    url: str
    md5: str
    split_bytes: tuple[int, int, int]

    other_forms = "raw, .gz and .xz work too"

    def verify(self, data: bytes, origin: str) -> bytes:
        """`data` itself, if it is this text to the byte.

        Raises:
          UserError: a wrong length or md5; `origin` says where the bytes came from.
        """
        expected = sum(self.split_bytes)
        hint = "a text of your own is read with --config.data.name=bytes_file"
        if len(data) != expected:
            raise UserError(f"{origin} holds {len(data):,} bytes, {self.name} has {expected:,}; {hint}")
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if md5 != self.md5:
            raise UserError(f"{origin} has md5 {md5}, {self.name} has {self.md5}; {hint}")
        return data

    def split(self, data: bytes) -> dict[str, bytes]:
        """The three parts."""
        return cut(data, self.split_bytes)


def cut(data: bytes, split_bytes: tuple[int, int, int]) -> dict[str, bytes]:
    """Consecutive parts of the given lengths."""
    train, valid, test = split_bytes
    borders = {"train": (0, train), "valid": (train, train + valid), "test": (train + valid, train + valid + test)}
    return {split: data[begin:end] for split, (begin, end) in borders.items()}


ENWIK8 = OfficialText(
    "enwik8",
    "http://mattmahoney.net/dc/enwik8.zip",
    "a1fa5ffddb56f4953e226637dabbb36a",
    (90_000_000, 5_000_000, 5_000_000),
)
TEXT8 = OfficialText(
    "text8",
    "http://mattmahoney.net/dc/text8.zip",
    "3bea1919949baf155f99411df5fada7e",
    (90_000_000, 5_000_000, 5_000_000),
)
ENWIK8_SAMPLE = OfficialText("enwik8_sample", "", "a7bf534fa985a59800d75a152f4a586f", (1_800_000, 100_000, 100_000))
