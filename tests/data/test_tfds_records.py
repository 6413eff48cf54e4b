"""Examples by the name of a TensorFlow Dataset, without TensorFlow and without a network."""

import sys

import pytest
import tensorflow_datasets as tfds

from effjax.data.tfds_records import reason_of, tfds_records
from effjax.errors import UserError


class TinyReviews(tfds.core.GeneratorBasedBuilder):
    """Texts with their labels, as imdb_reviews has them."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "text": tfds.features.Text(),
            "label": tfds.features.ClassLabel(num_classes=3),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(4)), "test": self._generate_examples(range(4, 6))}

    def _generate_examples(self, numbers):
        for i in numbers:
            yield i, {"text": f"review {i}", "label": i % 3}


def test_examples_are_prepared_once_and_read(tmp_path):
    for _ in range(2):
        found = {split: list(tfds_records("tiny_reviews", split, data_dir=tmp_path)) for split in ("train", "test")}
    assert {split: len(examples) for split, examples in found.items()} == {"train": 4, "test": 2}
    for example in found["train"] + found["test"]:
        i = int(example["text"].split()[1])
        assert int(example["label"]) == i % 3 and isinstance(example["text"], bytes)
    assert "tensorflow" not in sys.modules


def test_an_unknown_dataset_is_named(tmp_path):
    with pytest.raises(UserError, match=r"the dataset no_such_set could not be had .* give --config\.data\.path="):
        next(tfds_records("no_such_set", "train", data_dir=tmp_path))


def test_missing_tensorflow_is_the_reason_that_is_named():
    try:
        try:
            raise ImportError("no module")
        except ImportError as missing:
            raise ValueError("failed to encode [[1, 2], [3, 4]]") from missing
    except ValueError as error:
        assert "pip install tensorflow" in reason_of(error)
    assert reason_of(OSError("no\n network")) == "no network"
