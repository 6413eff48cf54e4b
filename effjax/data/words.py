"""Word vocabularies: the most frequent words of a training text, in order of frequency."""

import functools
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from effjax.errors import UserError

END_OF_LINE, UNKNOWN_WORD = "<eos>", "<unk>"
PIECE_BYTES = 1 << 24


@dataclass(frozen=True, eq=False)
class WordVocabulary:
    """Words between spaces: `<eos>`, which ends every line, then the most frequent ones of a training text.

    Words that occur equally often stand in order of appearance. A word that is not among them is `<unk>`, which takes
    the second place unless the text has it as a word of its own. The size is known before any text is.

    Args:
      size: number of ids V.
      words: the word of each id; None before `learn`.
    """

    size: int
    words: tuple[str, ...] | None = None

    learned: ClassVar[bool] = True
    drops_bytes: ClassVar[bool] = True  # a score is per word
    dtype: ClassVar[np.dtype] = np.dtype(np.int32)

    def __post_init__(self):
        if self.size < 3:
            raise UserError(f"the vocabulary words:{self.size} has no room for a word; words:3 is the smallest")

    @property
    def name(self) -> str:
        """As in the configuration."""
        return f"words:{self.size}"

    def learn(self, text: bytes) -> "WordVocabulary":
        """The vocabulary of a training text.

        Raises:
          UserError: a text with fewer different words than the vocabulary is to have.
        """
        counts = Counter()
        for words in pieces_of_words(text):
            counts.update(words)
        counts.pop(END_OF_LINE, None)
        first = [END_OF_LINE] if UNKNOWN_WORD in counts else [END_OF_LINE, UNKNOWN_WORD]
        words = (*first, *(word for word, _ in counts.most_common(self.size - len(first))))
        if len(words) < self.size:
            raise UserError(f"the training text gives {len(words)} words with {END_OF_LINE}, {self.name} needs more")
        return replace(self, words=words)

    @functools.cached_property
    def codes(self) -> dict[str, int]:
        """The id of each word."""
        if self.words is None:
            raise ValueError(f"the vocabulary {self.name} is not known before a text is read: call learn first")
        return {word: index for index, word in enumerate(self.words)}

    def encode(self, text: bytes, *, end_of_file: bool = False) -> np.ndarray:
        """The ids of a text, `<eos>` for every newline.

        Args:
          text: UTF-8.
          end_of_file: the text is a whole file, whose last line ends even without a newline.

        Returns:
          Ids, `[words]`, int32.

        Raises:
          UserError: a word that the vocabulary does not hold, and no `<unk>` either.
        """
        unknown = itertools.repeat(self.codes.get(UNKNOWN_WORD, -1))
        pieces = [
            np.fromiter(map(self.codes.get, words, unknown), np.int32, len(words)) for words in pieces_of_words(text)
        ]
        if end_of_file and text and not text.endswith(b"\n"):
            pieces.append(np.array([self.codes[END_OF_LINE]], np.int32))
        return np.concatenate(pieces) if pieces else np.zeros(0, np.int32)

    def count(self, text: bytes) -> int:
        """How many ids `encode` gives, whatever the words."""
        return sum(map(len, pieces_of_words(text)))

    def decode(self, ids: np.ndarray) -> bytes:
        """The words that ids stand for, with a space between any two, and lines for `<eos>`.

        Raises:
          ValueError: an id outside the vocabulary.
        """
        ids = np.asarray(ids)
        if ids.size and not 0 <= ids.min() <= ids.max() < self.size:
            raise ValueError(f"ids in [{ids.min()}, {ids.max()}]; vocabulary {self.name!r} allows [0, {self.size - 1}]")
        known = list(self.codes)  # in the order of the ids; an error where the words are not known
        words = (known[index] for index in ids.ravel().tolist())
        return " ".join("\n" if word == END_OF_LINE else word for word in words).encode()


def pieces_of_words(text: bytes) -> Iterator[list[str]]:
    """The words of a text and `<eos>` for its newlines, some megabytes at a time."""
    start = 0
    while start < len(text):
        end = start + PIECE_BYTES
        if end < len(text):  # after a line, or at least a word, that fits
            border = max(text.rfind(b"\n", start, end), text.rfind(b" ", start, end))
            end = border + 1 if border >= start else end
        piece = text[start:end].decode("utf-8", errors="replace")
        yield piece.replace("\n", f" {END_OF_LINE} ").split()
        start = end
