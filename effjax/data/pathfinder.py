"""Pathfinder of the Long Range Arena: are two dots joined by a dashed path? The official folder or archive, with

    pathfinder32/curv_contour_length_14/imgs/0/sample_0.png
    pathfinder32/curv_contour_length_14/metadata/0.npy      (text: a line `imgs/0 sample_0.png 0 1 …` a picture)

where the fourth word of a line is the label. The release has pictures of no bytes; they are counted and left out.
"""

import re

import numpy as np

from effjax.data.labelled import Labelled, Record, collect
from effjax.data.packed_files import packed_files
from effjax.data.pixels import read_picture
from effjax.errors import UserError

CLASSES = ("apart", "joined")
DIFFICULTIES = {"easy": "curv_baseline", "intermediate": "curv_contour_length_9", "hard": "curv_contour_length_14"}
OPTIONS = dict(side=32, difficulty="hard")  # 128 is Path-X; "easy", "intermediate" or "hard"
SHARES = {"train": (0.0, 0.8), "valid": (0.8, 0.9), "test": (0.9, 1.0)}


def vocab_size(config) -> int:
    """Levels of grey."""
    return 256


def encode(config, pixels: bytes) -> np.ndarray:
    """Pixels are their own ids."""
    return np.frombuffer(pixels, np.uint8)


def read_input(config, data: bytes) -> bytes:
    """The pixels of a picture in a file."""
    return read_picture(data, config.options.side)


def load(config) -> dict[str, Labelled]:
    """80, 10 and 10 per cent of the pictures, in an order drawn once and for all.

    Raises:
      UserError: no such pictures, a picture without a label or the other way round, or a damaged one.
    """
    options, path = config.options, config.data.path
    if not path:
        raise UserError(
            "Pathfinder is no TensorFlow Dataset: give --config.data.path=, the folder or archive "
            f"of the arena's release with pathfinder{options.side}/"
        )
    if options.difficulty not in DIFFICULTIES:
        raise UserError(
            f"config.options.difficulty={options.difficulty!r}; one of {', '.join(DIFFICULTIES)} is allowed"
        )
    place = f"pathfinder{options.side}/{DIFFICULTIES[options.difficulty]}"
    pictures, labels = _read(path, place)
    if not pictures:
        raise UserError(f"{path}: there are no pictures {place}/imgs/…/*.png in it")
    for here, there, what in ((pictures, labels, "label"), (labels, pictures, "picture")):
        if lost := next((name for name in here if name not in there), None):
            raise UserError(f"{path}: {place}/{lost} has no {what}: the data may be cut off")
    records = (Record(name, labels[name], (pictures[name],)) for name in sorted(pictures))

    def as_ids(data):
        return encode(config, read_picture(data, options.side) if data else b"")

    whole = collect(records, as_ids, origin=f"{path}, {place}", classes=2, length=config.data.length)
    cut = {split: tuple(round(part * len(whole)) for part in share) for split, share in SHARES.items()}
    if any(start == stop for start, stop in cut.values()):
        raise UserError(f"{path}: {len(whole)} pictures are too few for three splits")
    return {split: whole.take(np.arange(start, stop)) for split, (start, stop) in cut.items()}


def _read(path, place):
    """`{"imgs/0/sample_0.png": …}`: the bytes and the labels of all pictures."""
    pictures, labels = {}, {}
    inside = re.compile(rf"(?:^|/){place}/((?:imgs/\d+/[^/]+\.png)|(?:metadata/\d+\.npy))$")
    for name, data in packed_files(path, lambda name: bool(inside.search(name))):
        own = inside.search(name)[1]
        if own.startswith("imgs/"):
            pictures[own] = data
            continue
        for number, line in enumerate(data.decode("utf-8", errors="replace").splitlines(), 1):
            words = line.split()
            if len(words) < 4 or words[3] not in ("0", "1"):
                raise UserError(f"{path}: line {number} of {name} has no label in its fourth word: {line[:60]!r}")
            labels[f"{words[0]}/{words[1]}"] = int(words[3])
    return pictures, labels
