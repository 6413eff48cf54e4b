"""Labelled documents as examples of one length: cut or padded at the end, one or two documents an example."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from effjax.errors import UserError

SPLIT_SEED = 1_103_515_245  # of the order in which the examples of a split stand, and of what is held out


class Record(NamedTuple):
    """One example as its file has it."""

    name: str  # where it was found, for errors
    label: int
    documents: tuple[bytes, ...]


@dataclass(frozen=True)
class Ragged:
    """Sequences of ids one after the other: number `i` is `ids[starts[i] : starts[i + 1]]`."""

    ids: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, sequences: list[np.ndarray]) -> "Ragged":
        """Sequences put together; ids keep the type that they have."""
        lengths = [len(sequence) for sequence in sequences]
        return cls(np.concatenate(sequences), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    def rows(self, indices: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The first `length` ids of some sequences, int32 `[b, length]`, and where there are any, bool."""
        start, stop = self.starts[indices][:, None], self.starts[indices + 1][:, None]
        place = start + np.arange(length)
        there = place < stop
        return np.where(there, self.ids[np.minimum(place, len(self.ids) - 1)], 0).astype(np.int32), there


@dataclass(frozen=True)
class Labelled:
    """A split: `effjax.data.examples.Examples` of documents and their classes.

    Args:
      documents: of one tower or of two.
      labels: `[N]`, int32.
      length: of a batch; longer documents are cut at their end.
    """

    documents: tuple[Ragged, ...]
    labels: np.ndarray
    length: int

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: np.ndarray, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        """`inputs` int32 and `padding_mask` bool, `[b, T]`, of two towers `others` and `others_padding_mask` too;
        `labels` int32 `[b]`."""
        del rng
        batch = {"labels": self.labels[indices]}
        for prefix, documents in zip(("", "others_"), self.documents):
            ids, there = documents.rows(indices, self.length)
            batch |= {prefix.rstrip("_") or "inputs": ids, f"{prefix}padding_mask": there}
        return batch

    def take(self, indices: np.ndarray) -> "Labelled":
        """The examples at `indices`, in that order."""
        documents = tuple(
            Ragged.of([part.ids[part.starts[i] : part.starts[i + 1]] for i in indices]) for part in self.documents
        )
        return Labelled(documents, self.labels[indices], self.length)


def collect(
    records: Iterable[Record],
    encode: Callable[[bytes], np.ndarray],
    *,
    origin: str,
    classes: int,
    length: int,
    report: Callable[[str], None] | None = None,
) -> Labelled:
    """Encodes the records of a split, in an order drawn once and for all.

    Records with an empty document are left out, counted and reported.

    Args:
      records: in any order.
      encode: ids of a document.
      origin: the file or folder, for errors.
      classes: number of classes.
      length: as in `Labelled`; what lies beyond is not kept.
      report: called with a line about what was left out; None: standard error.

    Raises:
      UserError: a label outside the classes, a document that cannot be encoded, or no record at all.
    """
    found, empty = [], []
    for record in records:
        if not 0 <= record.label < classes:
            raise UserError(f"{origin}: {record.name} has the label {record.label}; 0 to {classes - 1} are allowed")
        try:
            documents = [encode(document)[:length] for document in record.documents]
        except UserError as error:
            raise UserError(f"{origin}: {record.name}: {error}") from error
        if min(map(len, documents)) == 0:
            empty.append(record.name)
        else:
            found.append((record.label, documents))
    if empty:
        text = f"{origin}: {len(empty)} of {len(empty) + len(found)} records are empty and left out ({empty[0]} first)"
        (report or (lambda line: print(line, file=sys.stderr)))(text)
    if not found:
        raise UserError(f"{origin} holds no record with a document in it")
    order = np.random.default_rng(SPLIT_SEED).permutation(len(found))
    labels = np.array([found[i][0] for i in order], np.int32)
    towers = zip(*(found[i][1] for i in order))
    return Labelled(tuple(Ragged.of(list(tower)) for tower in towers), labels, length)


def hold_out(examples: Labelled, share: float) -> tuple[Labelled, Labelled]:
    """A split in two, the second with a share of its examples.

    Raises:
      UserError: a share that leaves one of them empty.
    """
    n = round(share * len(examples))
    if not 0 < n < len(examples):
        raise UserError(f"config.options.valid_share={share} of {len(examples)} examples leaves one of the two empty")
    return examples.take(np.arange(n, len(examples))), examples.take(np.arange(n))
