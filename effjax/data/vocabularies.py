"""Which id stands for which byte: the vocabularies behind the published scores on enwik8 and text8.

| name | ids | id order | whose |
|---|---|---|---|
| `bytes` | 256 | the byte's value | raw bytes, canonical (Sparse Transformer) |
| `bytes+2` | 258 | the byte's value + 2; 0 is padding, 1 the end | Reformer |
| `drop_newlines` | 204 | enwik8's bytes in ascending order, newline left out | Transformer-XL |
| `newline_eos` | 205 | enwik8's bytes in ascending order, newline is `<eos>` | adaptive span |
| `text8` | 27 | space, then a to z | Transformer-XL |
| `text8_eos` | 28 | space, a to z, `<eos>` | adaptive span |
| `hashed_words:N` | N | a hash of each word in small letters | articles, without a text to learn words from |
| `ids:N` | N | numbers whose text is not known here, such as those of an imported model's tokenizer | |
| `words:N` | N | `<eos>`, then words of the training text by frequency | Transformer-XL on WikiText-103, N = 267,735 |

The orders of bytes are fixed here, so that no corpus has to be read to know an id; the originals count frequencies,
which only renames the ids. Adaptive span ends every file with one `<eos>` more (`end_of_file`). Both text8 pipelines
also strip the spaces at the edges of each split, at most two targets of five million; here they are kept.
"""

import difflib
import functools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from effjax.data.hashed_words import HashedWords
from effjax.data.words import WordVocabulary
from effjax.errors import UserError

# The 205 byte values that occur in enwik8: tab, newline, printable ASCII, and the parts of its UTF-8 sequences.
ENWIK8_BYTES = bytes([9, 10, *range(32, 127), *range(128, 192), *range(194, 221), 222, *range(224, 238), 239, 240])
TEXT8_BYTES = b" abcdefghijklmnopqrstuvwxyz"
UNKNOWN, DROPPED = -1, -2


@dataclass(frozen=True)
class Vocabulary:
    """A fixed assignment of ids to bytes.

    Args:
      name: as in the configuration.
      symbols: the byte that each id stands for, in the order of ids; empty for an id that stands for none.
      dropped: bytes that are passed over in silence, so that a score is per symbol and not per byte.
      ends_file: whether a whole file ends with one more newline symbol, unless it ends with one already.
    """

    name: str
    symbols: tuple[bytes, ...]
    dropped: bytes = b""
    ends_file: bool = False

    learned: ClassVar[bool] = False  # known without a text

    @property
    def size(self) -> int:
        """Number of ids."""
        return len(self.symbols)

    @property
    def drops_bytes(self) -> bool:
        """Whether a symbol of the stream may stand for more than one byte of the original."""
        return bool(self.dropped)

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned type that holds every id."""
        return np.dtype(np.uint8 if self.size <= 256 else np.uint16)

    @functools.cached_property
    def codes(self) -> np.ndarray:
        """The id of each of the 256 bytes, or DROPPED, or UNKNOWN."""
        codes = np.full(256, UNKNOWN, np.int16)
        codes[list(self.dropped)] = DROPPED
        for index, symbol in enumerate(self.symbols):
            codes[list(symbol)] = index
        return codes

    def encode(self, text: bytes, *, end_of_file: bool = False) -> np.ndarray:
        """The ids of a text.

        Args:
          text: bytes.
          end_of_file: the text is a whole file or split, which some vocabularies end with `<eos>`.

        Returns:
          Ids, `[symbols]`, of `dtype`.

        Raises:
          UserError: a byte that the vocabulary does not hold.
        """
        values = np.frombuffer(text, np.uint8)
        if UNKNOWN in self.codes:
            unknown = (self.codes == UNKNOWN)[values]
            if unknown.any():
                position = int(np.argmax(unknown))
                raise UserError(
                    f"byte 0x{text[position]:02x} ({text[position : position + 1]!r}) at position {position} is not "
                    f"among the {self.size} symbols of the vocabulary {self.name!r}"
                )
        ids = self.codes.astype(self.dtype)[values]
        if self.dropped:
            ids = ids[(self.codes != DROPPED)[values]]
        newline = self.codes[ord("\n")]
        if self.ends_file and end_of_file and ids.size and ids[-1] != newline:
            ids = np.append(ids, newline.astype(self.dtype))
        return ids

    def count(self, text: bytes) -> int:
        """How many ids `encode` gives."""
        return len(self.encode(text))

    def decode(self, ids: np.ndarray) -> bytes:
        """The bytes that ids stand for; what `encode` dropped is gone, padding and the end are no bytes.

        Raises:
          ValueError: an id outside the vocabulary.
        """
        ids = np.asarray(ids)
        if ids.size and not 0 <= ids.min() <= ids.max() < self.size:
            raise ValueError(f"ids in [{ids.min()}, {ids.max()}]; vocabulary {self.name!r} allows [0, {self.size - 1}]")
        return b"".join(self.symbols[index] for index in ids.ravel().tolist())


@dataclass(frozen=True)
class IdVocabulary:
    """Ids of a tokenizer that is not known here: a model has as many, and no text can be read or written with them.

    Args:
      size: number of ids.
    """

    size: int

    learned: ClassVar[bool] = False
    drops_bytes: ClassVar[bool] = True  # an id is no byte
    dtype: ClassVar[np.dtype] = np.dtype(np.int32)

    @property
    def name(self) -> str:
        """As in the configuration."""
        return f"ids:{self.size}"

    def encode(self, text: bytes, *, end_of_file: bool = False) -> np.ndarray:
        """Raises UserError: which id stands for what, nobody has said."""
        raise UserError(
            f"the vocabulary {self.name} is that of a tokenizer elsewhere, and reads no text; its model takes ids in "
            "Python (effjax.load_model), and text under --config.data.vocabulary of the same size"
        )

    def count(self, text: bytes) -> int:
        """As `encode`."""
        return len(self.encode(text))

    def decode(self, ids: np.ndarray) -> bytes:
        """As `encode`."""
        return bytes(self.encode(b""))


def single(values: bytes) -> tuple[bytes, ...]:
    """Each byte as a symbol of its own."""
    return tuple(bytes([value]) for value in values)


VOCABULARIES = {
    vocabulary.name: vocabulary
    for vocabulary in (
        Vocabulary("bytes", single(bytes(range(256)))),
        Vocabulary("bytes+2", (b"", b"", *single(bytes(range(256))))),
        Vocabulary("drop_newlines", single(ENWIK8_BYTES.replace(b"\n", b"")), dropped=b"\n"),
        Vocabulary("newline_eos", single(ENWIK8_BYTES), ends_file=True),
        Vocabulary("text8", single(TEXT8_BYTES)),
        Vocabulary("text8_eos", single(TEXT8_BYTES + b"\n"), ends_file=True),
    )
}


def get_vocabulary(name: str) -> Vocabulary | WordVocabulary | HashedWords | IdVocabulary:
    """The vocabulary of a name in the table above; one of words has its size, and its words once it has a text.

    Raises:
      UserError: no vocabulary of that name.
    """
    kind, _, size = name.partition(":")
    if kind == "words" and size.isdecimal():
        return WordVocabulary(int(size))
    if kind == "hashed_words" and size.isdecimal():
        return HashedWords(int(size))
    if kind == "ids" and size.isdecimal() and int(size):
        return IdVocabulary(int(size))
    if name not in VOCABULARIES:
        near = difflib.get_close_matches(name, VOCABULARIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join([*VOCABULARIES, "words:N", "hashed_words:N", "ids:N"])
        raise UserError(f"no vocabulary {name!r}, only {known}{hint}")
    return VOCABULARIES[name]
