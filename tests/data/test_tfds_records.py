"""Examples by the name of a TensorFlow Dataset, without TensorFlow and without a network."""

import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from effjax.data.pixels import grey
from effjax.data.tfds_records import tfds_records
from effjax.errors import UserError

PICTURES = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3)).astype(np.uint8)


class TinyPictures(tfds.core.GeneratorBasedBuilder):
    """Pictures with their captions, as imdb_reviews and cifar10 have them."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(4, 4, 3)),
            "text": tfds.features.Text(),
            "label": tfds.features.ClassLabel(num_classes=3),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(4)), "test": self._generate_examples(range(4, 6))}

    def _generate_examples(self, numbers):
        for i in numbers:
            yield i, {"image": PICTURES[i], "text": f"picture {i}", "label": i % 3}


def test_examples_are_prepared_once_and_read(tmp_path):
    for _ in range(2):
        found = {split: list(tfds_records("tiny_pictures", split, data_dir=tmp_path)) for split in ("train", "test")}
    assert {split: len(examples) for split, examples in found.items()} == {"train": 4, "test": 2}
    for example in found["train"] + found["test"]:
        i = int(example["text"].split()[1])
        assert int(example["label"]) == i % 3 and isinstance(example["text"], bytes)
        np.testing.assert_array_equal(example["image"], PICTURES[i])
        expected = np.round(PICTURES[i].astype(float) @ [0.2989, 0.587, 0.114])
        assert grey(example["image"]) == expected.astype(np.uint8).tobytes()
    assert "tensorflow" not in sys.modules


def test_an_unknown_dataset_is_named(tmp_path):
    with pytest.raises(UserError, match=r"the dataset no_such_set could not be had .* give --config\.data\.path="):
        next(tfds_records("no_such_set", "train", data_dir=tmp_path))
