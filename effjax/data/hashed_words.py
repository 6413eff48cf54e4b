"""Words without a list of them: the id of a word is a hash of it, the same for every text."""

import re
import zlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from effjax.errors import UserError

_WORD = re.compile(rb"[a-z0-9\x80-\xff]+(?:'[a-z]+)?|[^\sa-z0-9\x80-\xff]")


@dataclass(frozen=True)
class HashedWords:
    """`id = crc32(word) mod size` of words in small letters and of marks; words of one id are one to the model.

    It needs no training text, so that a model that was trained on one text reads another with it; nothing can be
    written with it.

    Args:
      size: number of ids V.

    Source: Weinberger et al. 2009 (0902.2206), without its signs.
    """

    size: int

    learned: ClassVar[bool] = False
    drops_bytes: ClassVar[bool] = True  # a score is per word

    def __post_init__(self):
        if self.size < 2:
            raise UserError(f"the vocabulary hashed_words:{self.size} is too small; hashed_words:2 is the smallest")

    @property
    def name(self) -> str:
        """As in the configuration."""
        return f"hashed_words:{self.size}"

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned type that holds every id."""
        return np.min_scalar_type(self.size - 1)

    def encode(self, text: bytes, *, end_of_file: bool = False) -> np.ndarray:
        """The ids of a text, `[words]`; `end_of_file` changes nothing."""
        del end_of_file
        words = _WORD.findall(text.lower())
        known = {word: zlib.crc32(word) % self.size for word in set(words)}
        return np.fromiter(map(known.__getitem__, words), self.dtype, len(words))

    def count(self, text: bytes) -> int:
        """How many ids `encode` gives."""
        return len(_WORD.findall(text.lower()))

    def decode(self, ids: np.ndarray) -> bytes:
        """Raises UserError: many words have one id."""
        raise UserError(f"the vocabulary {self.name} cannot be turned back into words")
