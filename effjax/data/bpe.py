"""Byte-pair encoding by the `tokenizers` library: learned from texts, kept as a file."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from etils import epath

from effjax.errors import UserError

SPECIAL = ("<pad>", "<s>", "</s>")
PAD, BEGIN, END = range(3)
SMALLEST = 256 + len(SPECIAL)


class BytePairs:
    """Pieces of words that a training text made frequent, down to single bytes, so that any text can be written.

    Ids 0, 1 and 2 are padding, the beginning and the end of a text, which `encode` does not write.

    Args:
      tokenizer: a `tokenizers.Tokenizer`.
    """

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    @classmethod
    def learn(cls, texts: Iterable[str], size: int, *, lowercase: bool = False) -> "BytePairs":
        """At most `size` pieces, the special ones included; with `lowercase` of texts in small letters only.

        Source: Sennrich et al. 2016 (1508.07909); bytes: Radford et al. 2019, section 2.2.
        """
        if size < SMALLEST:
            raise UserError(f"the vocabulary bpe:{size} has no room for every byte; bpe:{SMALLEST} is the smallest")
        models, pieces = _library()
        tokenizer = pieces.Tokenizer(models.BPE())
        if lowercase:
            tokenizer.normalizer = pieces.normalizers.Lowercase()
        tokenizer.pre_tokenizer = pieces.pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = pieces.decoders.ByteLevel()
        alphabet = pieces.pre_tokenizers.ByteLevel.alphabet()
        trainer = pieces.trainers.BpeTrainer(
            vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: epath.Path) -> "BytePairs":
        """Those kept in a file.

        Raises:
          UserError: a damaged file.
        """
        try:
            return cls(_library()[1].Tokenizer.from_str(path.read_text()))
        except UserError:
            raise
        except Exception as error:  # the library raises plain Exceptions
            raise UserError(f"{path} is damaged ({error}); restore it, or use another --workdir") from error

    def to_text(self) -> str:
        """What `load` reads, as JSON."""
        return self._tokenizer.to_str()

    @property
    def size(self) -> int:
        """Number of ids; fewer than asked for where the texts have no more pairs."""
        return self._tokenizer.get_vocab_size()

    def encode(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        """The ids of each text, int32, without the white space around it: none where there is nothing else."""
        for i in range(0, len(texts), BLOCK):
            block = [texts[j].strip() for j in range(i, min(i + BLOCK, len(texts)))]
            for encoding in self._tokenizer.encode_batch_fast(block, add_special_tokens=False):
                yield np.array(encoding.ids, np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special ones say nothing."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True).strip()


BLOCK = 4096  # texts in memory at once


def _library():
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(
            f"byte pairs need the library tokenizers ({error}): pip install 'effjax[translation]'"
        ) from None
    return tokenizers.models, tokenizers


def parse_size(vocabulary: str) -> int:
    """N of the name bpe:N.

    Raises:
      UserError: another name, or no room for every byte.
    """
    kind, _, size = vocabulary.partition(":")
    if kind != "bpe" or not size.isdecimal() or int(size) < SMALLEST:
        raise UserError(f"config.data.vocabulary={vocabulary!r}; bpe:N with N of at least {SMALLEST} is allowed")
    return int(size)
