"""Labelled documents: batches of one length, what is left out and what is refused."""

import numpy as np
import pytest

from effjax.data.examples import ExampleReader
from effjax.data.labelled import Record, collect, hold_out
from effjax.errors import UserError

as_ids = lambda text: np.frombuffer(text, np.uint8)


def examples(records, **options):
    return collect(records, as_ids, **dict(origin="here", classes=2, length=4) | options)


def test_documents_are_cut_or_padded_and_keep_their_labels():
    records = [Record(str(i), i % 2, (bytes([i]) * (i + 1),)) for i in range(6)]
    whole = examples(records)
    batch = whole.batch(np.arange(6), None)
    for label, row, there in zip(batch["labels"], batch["inputs"], batch["padding_mask"]):
        i = row[0]
        assert label == i % 2 and there.sum() == min(i + 1, 4) and (row[there] == i).all()
    assert batch["inputs"].shape == (6, 4) and batch["inputs"].dtype == np.int32
    assert sorted(batch["inputs"][:, 0]) == list(range(6)) and list(batch["inputs"][:, 0]) != list(range(6))


def test_pairs_stay_together_through_the_reader():
    records = [Record(str(i), 1, (bytes([i] * 3), bytes([i + 100] * 2))) for i in range(5)]
    batches = ExampleReader(examples(records), batch_size=5, seed=0).iterate()
    for _ in range(2):
        batch = next(batches)
        assert (batch["others"][:, 0] == batch["inputs"][:, 0] + 100).all()
        assert batch["others_padding_mask"].sum() == 10 and batch["padding_mask"].sum() == 15


def test_empty_documents_are_counted_and_reported():
    records = [Record("a", 0, (b"x",)), Record("b", 0, (b"",)), Record("c", 1, (b"y",)), Record("d", 1, (b"",))]
    lines = []
    assert len(examples(records, report=lines.append)) == 2
    assert lines == ["here: 2 of 4 records are empty and left out (b first)"]


def test_bad_records_are_named():
    with pytest.raises(UserError, match="here: b has the label 2; 0 to 1"):
        examples([Record("a", 0, (b"x",)), Record("b", 2, (b"y",))])
    with pytest.raises(UserError, match="here holds no record with a document"):
        examples([Record("a", 0, (b"",))], report=lambda line: None)


def test_what_is_held_out_is_gone_from_the_rest():
    whole = examples([Record(str(i), i % 2, (bytes([i]),)) for i in range(10)])
    rest, held = hold_out(whole, 0.3)
    ids = [set(part.batch(np.arange(len(part)), None)["inputs"][:, 0]) for part in (rest, held)]
    assert len(held) == 3 and not ids[0] & ids[1] and len(ids[0] | ids[1]) == 10
    with pytest.raises(UserError, match=r"valid_share=0\.01"):
        hold_out(whole, 0.01)
