"""PG-19 (Rae et al. 2020): books printed before 1919, a file each, in the folders `train`, `validation` and `test`."""

import re
import sys
from collections.abc import Callable

import numpy as np

from effjax.data.packed_files import packed_files
from effjax.errors import UserError

_BOOK = re.compile(r"(?:^|/)(train|validation|test(?:_near)?)/(\d+)\.txt$")
_SPLITS = {"train": "train", "validation": "valid", "test": "test", "test_near": "test"}
HELD_OUT = 20  # without validation books every so-many-th training book is one


def read_books(
    path: str | None, report: Callable[[str], None] | None = None
) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """The books of each split, one after the other in the order of their numbers.

    Books without a byte are left out, counted and reported, and so is it where training books stand in for a missing
    folder `validation`.

    Args:
      path: the official folder or an archive of it, local or `gs://deepmind-gutenberg`.
      report: called with a line about what was left out or moved; None: standard error.

    Returns:
      The text of each split, and the position at which each of its books begins.

    Raises:
      UserError: no path, no book of a split, or an archive that is truncated.
    """
    report = report or (lambda line: print(line, file=sys.stderr))
    if not path:
        raise UserError(
            "the corpus pg19 needs its folder or an archive of it (train/*.txt, validation/*.txt, test/*.txt): give "
            "--config.data.path=, with the extra gcs --config.data.path=gs://deepmind-gutenberg"
        )
    books, empty = {"train": [], "valid": [], "test": []}, []
    for name, text in packed_files(path, lambda name: bool(_BOOK.search(name))):
        split, number = _BOOK.search(name).groups()
        books[_SPLITS[split]].append((int(number), text)) if text else empty.append(name)
    if empty:
        report(f"{path}: {len(empty)} books are empty and left out ({empty[0]} first)")
    books = {split: [text for _, text in sorted(found)] for split, found in books.items()}
    if not books["valid"] and len(books["train"]) > 1:
        step = min(HELD_OUT, len(books["train"]))
        books["valid"] = books["train"][step - 1 :: step]
        del books["train"][step - 1 :: step]
        report(f"{path} has no validation books: {len(books['valid'])} of the training books stand in for them")
    for split, found in books.items():
        if not found:
            raise UserError(f"{path} has no books of the {split} split (train/*.txt, validation/*.txt, test/*.txt)")
    starts = {split: np.cumsum([0, *map(len, found[:-1])]) for split, found in books.items()}
    return {split: b"".join(found) for split, found in books.items()}, starts
