"""Batches of pairs of texts in ids: one pair a row, or several packed into each."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from effjax.data.bpe import BEGIN, END, PAD, BytePairs
from effjax.data.text_pairs import TextPairs
from effjax.errors import UserError

SIDES = ("source", "target")
OPEN_ROWS = 32  # rows into which the next pair may go while pairs are packed


@dataclass(frozen=True)
class Ragged:
    """Arrays of ids of unequal lengths, one behind the other.

    Args:
      ids: all of them.
      ends: where each array ends, `[n]`.
    """

    ids: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, arrays: Iterable[np.ndarray]) -> "Ragged":
        arrays = list(arrays)
        lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
        return cls(np.concatenate([np.empty(0, np.int32), *arrays]), np.cumsum(lengths))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i) -> np.ndarray:
        return self.ids[self.ends[i - 1] if i else 0 : self.ends[i]]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.ends, prepend=0)


class PairExamples:
    """Pairs as the rows of a batch: `inputs` `[b, S]`; `previous` and `targets` `[b, T]`, those one token later.

    Both sides end in `END`. `source_segments` and `target_segments` are 0 at padding and the number of a pair in its
    row, from 1, elsewhere; `source_positions` and `target_positions` count from 0 in each pair.

    Args:
      pairs: texts.
      vocabulary: their pieces.
      source_length, target_length: S and T.
      truncate: shorten texts that are longer than that; otherwise a pair is left out if one of its texts is.
      strict: an empty text is an error; otherwise its pair is left out.
      pack: put as many pairs into a row as there is room for; a batch then has rows of several pairs.
      seed: of the order in which pairs are packed.

    Raises:
      UserError: an empty text in a strict corpus, with its number; no pairs that fit.

    What is left out or shortened is counted and said once, on standard error.
    """

    def __init__(
        self,
        pairs: TextPairs,
        vocabulary: BytePairs,
        *,
        source_length: int,
        target_length: int,
        truncate: bool = False,
        strict: bool = False,
        pack: bool = False,
        seed: int = 0,
    ):
        self.lengths = {"source": source_length, "target": target_length}
        encoded = {side: Ragged.of(vocabulary.encode(getattr(pairs, side))) for side in SIDES}
        kept = np.ones(len(pairs), bool)
        for side, texts in encoded.items():
            empty = texts.lengths == 0
            if strict and empty.any():
                raise UserError(f"{pairs.origin}: the {side} of record {int(np.argmax(empty)) + 1} is empty")
            self._say(pairs, empty & kept, f"left out, for their {side} is empty")
            kept &= ~empty
        for side, texts in encoded.items():
            long = texts.lengths + 1 > self.lengths[side]
            done = "shortened" if truncate else "left out"
            self._say(pairs, long & kept, f"{done}, for their {side} has more than {self.lengths[side] - 1} tokens")
            kept &= truncate | ~long
        if not kept.any():
            raise UserError(f"{pairs.origin}: none of the {len(pairs):,} pairs can be used")
        self.texts = encoded
        self.numbers = np.flatnonzero(kept)
        room = [np.minimum(encoded[side].lengths + 1, self.lengths[side]) for side in SIDES]
        if pack:
            order = np.random.default_rng(seed).permutation(self.numbers)
            self.rows = pack_pairs(order, *room, *self.lengths.values())
        else:
            self.rows = [(number,) for number in self.numbers]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: np.ndarray, rng=None) -> dict[str, np.ndarray]:
        """The rows at `indices`."""
        shape = {side: (len(indices), length) for side, length in self.lengths.items()}
        batch = {"inputs": np.full(shape["source"], PAD, np.int32)}
        batch |= {name: np.full(shape["target"], PAD, np.int32) for name in ("previous", "targets")}
        for side in SIDES:
            batch |= {f"{side}_{name}": np.zeros(shape[side], np.int32) for name in ("segments", "positions")}
        for row, index in enumerate(indices):
            begin = dict.fromkeys(SIDES, 0)
            for segment, number in enumerate(self.rows[index], 1):
                for side in SIDES:
                    ids = np.append(self.texts[side][number][: self.lengths[side] - 1], END)
                    place = slice(begin[side], begin[side] + len(ids))
                    batch["inputs" if side == "source" else "targets"][row, place] = ids
                    batch[f"{side}_segments"][row, place] = segment
                    batch[f"{side}_positions"][row, place] = np.arange(len(ids))
                    if side == "target":
                        batch["previous"][row, place] = np.insert(ids[:-1], 0, BEGIN)
                    begin[side] += len(ids)
        return batch

    @staticmethod
    def _say(pairs: TextPairs, which: np.ndarray, what: str) -> None:
        if which.any():
            first = int(np.argmax(which)) + 1
            number = f"{int(which.sum()):,} of {len(which):,} pairs {what} (the first is record {first})"
            print(f"{pairs.origin}: {number}", file=sys.stderr)


def pack_pairs(
    order: np.ndarray, source: np.ndarray, target: np.ndarray, source_length: int, target_length: int
) -> list[tuple[int, ...]]:
    """Rows of pairs, each of which fits on both sides: every pair goes into the first open row with room for it.

    Args:
      order: numbers of the pairs, in the order in which they are placed.
      source, target: length of each pair's texts, by number.
      source_length, target_length: of a row.

    Returns:
      The numbers of the pairs of each row.
    """
    done, rows = [], []  # open rows: [room left for sources, for targets, numbers]
    for number in order.tolist():
        a, b = int(source[number]), int(target[number])
        row = next((row for row in rows if row[0] >= a and row[1] >= b), None)
        if row is None:
            if len(rows) == OPEN_ROWS:
                done.append(rows.pop(0)[2])
            row = [source_length, target_length, []]
            rows.append(row)
        row[0], row[1] = row[0] - a, row[1] - b
        row[2].append(number)
    return [tuple(numbers) for numbers in (*done, *(row[2] for row in rows))]
