"""Books that do not see each other: how they are read, and what readers and the scorer make of their borders."""

import numpy as np
import pytest

from effjax.data import StreamReader, WindowReader, load_corpus, scoring_batches, scoring_streams
from effjax.data.pg19 import read_books
from effjax.errors import UserError
from tests.data import records

DOCUMENTS = np.array([0, 7, 8, 30])
TOKENS = np.arange(50, dtype=np.uint8)


def own(position):
    return int(np.sum(position >= DOCUMENTS)) - 1


def check(batch):
    """Every row against the rule, pair by pair; returns the targets that count."""
    counted = []
    for row in zip(*(batch[name] for name in ("inputs", "targets", "segment_ids", "weights"))):
        for x, y, segment, weight in zip(*row):
            assert segment == own(x)
            assert weight in (0.0, float(own(x) == own(y)))
            counted += [int(y)] * int(weight)
    return counted


def test_windows_and_streams_mark_their_documents():
    windows = WindowReader(TOKENS, length=6, stride=6, batch_size=2, seed=0, documents=DOCUMENTS).iterate()
    streams = StreamReader(TOKENS, length=6, batch_size=2, seed=0, documents=DOCUMENTS).iterate()
    for batches in (windows, streams):
        for _ in range(4):
            check(next(batches))
    assert "segment_ids" not in next(WindowReader(TOKENS, length=6, stride=6, batch_size=2, seed=0).iterate())


@pytest.mark.parametrize(
    "batches",
    [
        lambda: scoring_batches(TOKENS, context=10, stride=4, batch_size=3, documents=DOCUMENTS),
        lambda: scoring_streams(TOKENS, length=5, streams=3, batch_size=4, documents=DOCUMENTS),
    ],
)
def test_every_token_but_the_first_of_each_document_is_scored_once(batches):
    counted = sorted(target for batch in batches() for target in check(batch))
    assert counted == sorted(set(TOKENS.tolist()) - set(DOCUMENTS.tolist()))


def test_books_stand_in_the_order_of_their_numbers(tmp_path, capsys):
    folder = records.write_books(tmp_path)
    (folder / "train" / "README.txt").write_text("no book")
    corpus = load_corpus("pg19", path=str(folder))
    assert "1 books are empty and left out (train/2.txt first)" in capsys.readouterr().err
    assert {split: starts.tolist() for split, starts in corpus.documents.items()} == {
        "train": [0, 700],
        "valid": [0],
        "test": [0, 250],
    }
    assert corpus.splits["train"][700:].tobytes() == (folder / "train" / "3.txt").read_bytes()
    assert corpus.bytes_per_split == {"train": 1000, "valid": 400, "test": 600}


def test_training_books_stand_in_for_missing_validation_books(tmp_path):
    folder = records.write_books(tmp_path, sizes=([10] * 45, [5]), splits=("train", "test_near"))
    lines = []
    parts, documents = read_books(str(folder), lines.append)
    assert [len(documents[split]) for split in ("train", "valid", "test")] == [43, 2, 1]
    assert len(parts["train"]) == 430 and "2 of the training books stand in" in lines[0]


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="the corpus pg19 needs its folder"):
        load_corpus("pg19")
    folder = records.write_books(tmp_path, sizes=((30, 30), (5,)), splits=("train", "validation"))
    with pytest.raises(UserError, match="has no books of the test split"):
        load_corpus("pg19", path=str(folder))
    with pytest.raises(UserError, match="keeps its documents apart byte by byte"):
        load_corpus("pg19", path=str(folder), vocabulary="drop_newlines")
