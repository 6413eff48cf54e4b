"""ListOps of the Long Range Arena: generated with a seed, or read from the official files `basic_*.tsv`."""

import csv
import io

import numpy as np

from effjax.data.labelled import Labelled, Record, collect
from effjax.data.listops_trees import TOKENS, generate
from effjax.data.packed_files import packed_files
from effjax.errors import UserError

CLASSES = tuple(map(str, range(10)))
FILES = {"train": "basic_train.tsv", "valid": "basic_val.tsv", "test": "basic_test.tsv"}
OPTIONS = dict(
    sizes=(96_000, 2000, 2000),  # examples generated for train, valid and test
    data_seed=0,
    max_depth=10,
    max_args=10,
    min_tokens=500,
    max_tokens=2000,
)
_CODES = {token: i for i, token in enumerate(TOKENS)}


def vocab_size(config) -> int:
    """Digits, operators, the closing bracket."""
    return len(TOKENS)


def encode(config, text: bytes) -> np.ndarray:
    """The ids of an expression such as `[MAX 2 9 [MIN 4 7 ] 0 ]`; round brackets, as in the files, say nothing.

    Raises:
      UserError: something else in it.
    """
    words = text.decode("utf-8", errors="replace").replace("(", " ").replace(")", " ").split()
    unknown = next((word for word in words if word not in _CODES), None)
    if unknown is not None:
        raise UserError(f"{unknown!r} is no part of ListOps; those are {' '.join(TOKENS)}")
    return np.array([_CODES[word] for word in words], np.uint8)


def load(config) -> dict[str, Labelled]:
    """The three splits: read from the folder or archive at `config.data.path`, or generated."""
    options, length = config.options, config.data.length
    if config.data.path:
        return _read(config)
    sizes = tuple(options.sizes)
    if len(sizes) != 3 or min(sizes) < 1:
        raise UserError(f"config.options.sizes={sizes}; numbers of train, valid and test examples are needed")
    names = ("max_depth", "max_args", "min_tokens", "max_tokens")
    trees = generate(sum(sizes), seed=options.data_seed, **{name: options[name] for name in names})
    splits = {}
    for split, size in zip(FILES, sizes):
        records = (Record("tree", value, (tokens.tobytes(),)) for tokens, value in (next(trees) for _ in range(size)))
        as_ids = lambda tokens: np.frombuffer(tokens, np.uint8)
        splits[split] = collect(records, as_ids, origin=f"ListOps, {split}", classes=10, length=length)
    return splits


def _read(config):
    files = {}
    for name, data in packed_files(config.data.path, lambda name: name.endswith(tuple(FILES.values()))):
        files[name.rsplit("/", 1)[-1]] = data
    splits = {}
    for split, name in FILES.items():
        origin = f"{config.data.path}: {name}"
        if name not in files:
            raise UserError(f"{origin}: there is no such file in it")
        records = _records(files[name], origin)
        encoder = lambda text: encode(config, text)
        splits[split] = collect(records, encoder, origin=origin, classes=10, length=config.data.length)
    return splits


def _records(data: bytes, origin: str):
    rows = csv.reader(io.StringIO(data.decode("utf-8")), delimiter="\t")
    if next(rows, None) != ["Source", "Target"]:
        raise UserError(f"{origin}: the first line is not Source, Target")
    for number, row in enumerate(rows, 2):
        if len(row) != 2 or not row[1].strip().isdecimal():
            raise UserError(f"{origin}: line {number} is no expression with a digit behind it: the file may be cut off")
        yield Record(f"line {number}", int(row[1]), (row[0].encode(),))
