"""CIFAR-10 as 1,024 grey pixels in a row: `cifar10` of TensorFlow Datasets, or the official binary archive."""

import re

import numpy as np

from effjax.data.labelled import Labelled, Record, collect, hold_out
from effjax.data.packed_files import packed_files
from effjax.data.pixels import grey, read_picture
from effjax.data.tfds_records import tfds_records
from effjax.errors import UserError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
OPTIONS = dict(valid_share=0.1)  # of the 50,000 training pictures, held out
SIDE = 32
_FILE = re.compile(r"(?:^|/)(data_batch_\d|test_batch)\.bin$")
_BYTES = 1 + 3 * SIDE * SIDE  # a label, then red, green and blue


def vocab_size(config) -> int:
    """Levels of grey."""
    return 256


def encode(config, pixels: bytes) -> np.ndarray:
    """Pixels are their own ids."""
    return np.frombuffer(pixels, np.uint8)


def read_input(config, data: bytes) -> bytes:
    """The pixels of a picture in a file."""
    return read_picture(data, SIDE)


def load(config) -> dict[str, Labelled]:
    """The splits; valid is held out of the training pictures.

    Raises:
      UserError: an archive that is cut off, or lacks a split.
    """
    path = config.data.path
    found = _read_archive(path) if path else _read_tfds()
    splits = {}
    for split, records in found.items():
        origin = f"{path or 'cifar10'}, {split}"
        as_ids = lambda pixels: encode(config, pixels)
        splits[split] = collect(records, as_ids, origin=origin, classes=10, length=config.data.length)
    splits["train"], splits["valid"] = hold_out(splits["train"], config.options.valid_share)
    return splits


def _read_archive(path):
    found = {"train": [], "test": []}
    for name, data in packed_files(path, lambda name: bool(_FILE.search(name))):
        if len(data) % _BYTES or not data:
            raise UserError(f"{path}: {name} has {len(data):,} bytes, which is no whole number of pictures: cut off?")
        split = "test" if "test_batch" in name else "train"
        for number, row in enumerate(np.frombuffer(data, np.uint8).reshape(-1, _BYTES)):
            pixels = grey(row[1:].reshape(3, SIDE, SIDE).transpose(1, 2, 0))
            found[split].append(Record(f"{name}, picture {number}", int(row[0]), (pixels,)))
    if missing := [split for split, records in found.items() if not records]:
        raise UserError(f"{path}: no pictures of the {missing[0]} split (data_batch_1.bin to 5, test_batch.bin)")
    return found


def _read_tfds():
    return {
        split: [
            Record(f"record {i}", int(example["label"]), (grey(example["image"]),))
            for i, example in enumerate(tfds_records("cifar10", split))
        ]
        for split in ("train", "test")
    }
