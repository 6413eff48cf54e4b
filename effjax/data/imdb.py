"""IMDB reviews (Maas et al. 2011): the folder or archive aclImdb, or `imdb_reviews` of TensorFlow Datasets."""

import re

from effjax.data.labelled import Labelled, Record, collect, hold_out
from effjax.data.packed_files import packed_files
from effjax.data.text_ids import encode, vocab_size
from effjax.data.tfds_records import tfds_records
from effjax.errors import UserError

__all__ = ["CLASSES", "OPTIONS", "encode", "load", "vocab_size"]

CLASSES = ("negative", "positive")
OPTIONS = dict(valid_share=0.1)  # of the 25,000 training reviews, held out; 0: the test split, as in the arena's code
_REVIEW = re.compile(r"(?:^|/)(train|test)/(neg|pos)/(\d+)_\d+\.txt$")
_LABELS = {"neg": 0, "pos": 1}


def load(config) -> dict[str, Labelled]:
    """The splits; valid is held out of the training reviews.

    Raises:
      UserError: no reviews of a split or class, or an archive that is cut off.
    """
    path = config.data.path
    found = _read_files(path) if path else _read_tfds()
    origin = path or "imdb_reviews"
    splits = {}
    for split in ("train", "test"):
        labels = {record.label for record in found[split]}
        if missing := [CLASSES[label] for label in (0, 1) if label not in labels]:
            raise UserError(f"{origin} holds no {missing[0]} reviews of the {split} split (aclImdb/{split}/neg, pos)")
        encoder = lambda text: encode(config, text)
        options = dict(origin=f"{origin}, {split}", classes=2, length=config.data.length)
        splits[split] = collect(found[split], encoder, **options)
    splits["valid"] = splits["test"]
    if config.options.valid_share:
        splits["train"], splits["valid"] = hold_out(splits["train"], config.options.valid_share)
    return splits


def _read_files(path):
    found = {"train": [], "test": []}
    for name, data in packed_files(path, lambda name: bool(_REVIEW.search(name))):
        split, label, _ = _REVIEW.search(name).groups()
        found[split].append(Record(name, _LABELS[label], (data,)))
    return {split: sorted(records) for split, records in found.items()}  # archives differ in their order


def _read_tfds():
    return {
        split: [
            Record(f"record {i}", int(example["label"]), (example["text"],))
            for i, example in enumerate(tfds_records("imdb_reviews", split))
        ]
        for split in ("train", "test")
    }
