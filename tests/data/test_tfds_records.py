"""Examples by the name of a TensorFlow Dataset, without TensorFlow and without a network."""

import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from effjax.data import librispeech
from effjax.data.labelled_sources import get_source
from effjax.data.tfds_records import reason_of, tfds_records, tfds_source
from effjax.errors import UserError
from effjax.training.config import load_config


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


class TinySpeech(tfds.core.GeneratorBasedBuilder):
    """Sounds, texts and speakers, as librispeech has them."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "speech": tfds.features.Tensor(shape=(None,), dtype=np.int64),  # its Audio is that, and asks for TensorFlow
            "text": tfds.features.Text(),
            "speaker_id": np.int64,
            "id": np.str_,
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        parts = set("+".join(librispeech.TFDS_SPLITS.values()).split("+"))
        return {part: self._generate_examples(part) for part in parts}

    def _generate_examples(self, part):
        for i in range(2):
            samples = np.arange(160 * (i + 1), dtype=np.int64)
            yield i, {"speech": samples, "text": f"SAID IN {part.upper()}", "speaker_id": i, "id": f"{part}-{i}"}


def test_librispeech_is_read_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(
        librispeech, "tfds_source", lambda name, split: tfds_source("tiny_speech", split, data_dir=tmp_path)
    )
    splits = librispeech.librispeech("")
    assert {split: len(found) for split, found in splits.items()} == {
        "train": 6,
        "valid": 2,
        "valid_other": 2,
        "test": 2,
        "test_other": 2,
    }
    parts = ("CLEAN100", "CLEAN360", "OTHER500")
    assert {u.transcript for u in splits["train"]} == {f"SAID IN TRAIN_{part}" for part in parts}
    by_length = {u.length: u for u in splits["test"]}
    np.testing.assert_array_equal(by_length[320].read(), np.arange(320, dtype=np.float32) / 2**15)
    assert by_length[160].speaker == "0" and by_length[160].name == "test_clean-0"


@pytest.mark.parametrize("name", ["imdb", "cifar10"])
def test_labelled_sets_are_read_by_their_names(name, monkeypatch):
    """Of each split so many records that some can be held out; what stands in them is what comes out."""
    asked = []

    def records(dataset, split):
        asked.append((dataset, split))
        for i in range(20):
            picture = np.full((32, 32, 3), i, np.uint8)
            yield {"label": i % 2, "text": f"review {i}".encode(), "image": picture}

    module = get_source(name)
    monkeypatch.setattr(module, "tfds_records", records)
    config = load_config({"imdb": "configs/lra_text.py", "cifar10": "configs/lra_image.py"}[name])
    splits = module.load(config)
    assert asked == [({"imdb": "imdb_reviews"}.get(name, name), split) for split in ("train", "test")]
    assert {split: len(found) for split, found in splits.items()} == {"train": 18, "valid": 2, "test": 20}
    batch = splits["test"].batch(np.arange(20), None)
    for ids, there, label in zip(batch["inputs"], batch["padding_mask"], batch["labels"]):
        number = int(ids[0]) if name == "cifar10" else int(bytes(ids[there].astype(np.uint8)).split()[1])
        assert number % 2 == label


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
