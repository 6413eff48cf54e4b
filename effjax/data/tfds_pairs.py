"""Pairs of texts that TensorFlow Datasets has, read without TensorFlow once they are prepared.

This module imports TensorFlow Datasets; `effjax.data.text_pairs` imports it only when such a corpus is asked for.
"""

import importlib
import sys
from collections.abc import Sequence

import tensorflow_datasets as tfds

from effjax.data.text_pairs import Splits, TextPairs
from effjax.errors import UserError

SPLITS = {"train": "train", "valid": "validation", "test": "test"}
# Name there, module that registers it, fields of the source and the target.
BUILDERS = {
    "wmt14": ("wmt14_translate/{pair}", "tensorflow_datasets.translate.wmt14", ("{source}", "{target}")),
    "cnn_dailymail": ("cnn_dailymail", "tensorflow_datasets.summarization.cnn_dailymail", ("article", "highlights")),
    "arxiv": (
        "scientific_papers/arxiv",
        "tensorflow_datasets.summarization.scientific_papers",
        ("article", "abstract"),
    ),
}
WMT14_PAIRS = ("cs-en", "de-en", "fr-en", "hi-en", "ru-en")


class Column(Sequence):
    """One field of records that are read at random.

    Args:
      records: what `as_data_source` gives.
      field: name of a text.
    """

    def __init__(self, records, field: str):
        self._records, self._field = records, field

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < len(self):  # what ends an iteration
            raise IndexError(i)
        return self._records[i][self._field].decode()


def load(name: str, data_dir: str, source: str, target: str) -> Splits:
    """The splits of a corpus, prepared on the first call.

    Raises:
      UserError: languages that it does not have; data that are neither prepared nor to be had.
    """
    known, module, fields = BUILDERS[name]
    pair = "-".join(sorted((source, target), key=lambda language: language == "en"))
    if name == "wmt14" and pair not in WMT14_PAIRS:
        raise UserError(f"wmt14 has no pair {source}-{target}; either way of {', '.join(WMT14_PAIRS)} is allowed")
    known = known.format(pair=pair)
    fields = [field.format(source=source, target=target) for field in fields]
    builder = prepared(known, module, data_dir or None)

    def read(split):
        origin = f"{builder.data_path}, {SPLITS[split]}"
        try:
            records = builder.as_data_source(split=SPLITS[split])
            return TextPairs(*(Column(records, field) for field in fields), origin)
        except Exception as error:  # array_record and TensorFlow Datasets have no common type for damage
            raise UserError(
                f"{origin} cannot be read ({one_line(error)}); remove it, and it is prepared anew"
            ) from error

    return Splits(SPLITS, read)


def prepared(name: str, module: str, data_dir: str | None):
    """The builder of a prepared corpus, in array_record files, which need no TensorFlow to be read."""
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        importlib.import_module(module)
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        if not builder.data_path.exists():
            builder.download_and_prepare()
    except Exception as error:  # of the network, of a disk, of a builder that needs TensorFlow to prepare its files
        where = data_dir or "~/tensorflow_datasets"
        raise UserError(
            f"{name} is not in {where} and could not be prepared ({one_line(error)}): run "
            f"tfds.builder({name!r}, file_format='array_record').download_and_prepare() once where there are a network "
            "and TensorFlow, and give the folder as --config.data.path="
        ) from error
    return builder


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
