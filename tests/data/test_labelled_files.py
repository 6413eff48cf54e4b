"""The data sets of labelled documents, on tiny records in their official formats, whole and damaged."""

import lzma
import os
import shutil
import tarfile

import numpy as np
import pytest

from effjax.data.labelled_sources import SOURCES, get_source
from effjax.errors import UserError
from effjax.training.config import load_config
from tests.data import records

CONFIGS = {
    "imdb": "lra_text",
    "aan": "lra_retrieval",
    "cifar10": "lra_image",
    "pathfinder": "lra_pathfinder",
    "hyperpartisan": "longformer_hyperpartisan",
}


def load(name, path, **options):
    config = load_config(f"configs/{CONFIGS[name]}.py:tiny").unlock()
    config.data.update(name=name, path=str(path))
    config.options.update(options)
    return get_source(name).load(config)


def labels(split):
    return sorted(split.labels.tolist())


def all_of(split):
    return split.batch(np.arange(len(split)), None)


def test_reviews_from_a_folder_and_from_an_archive_are_the_same(tmp_path):
    folder = records.write_imdb(tmp_path)
    archive = shutil.make_archive(str(tmp_path / "aclImdb_v1"), "gztar", tmp_path, "aclImdb")
    here, there = load("imdb", folder, valid_share=0.25), load("imdb", archive, valid_share=0.25)
    for split, n in (("train", 9), ("valid", 3), ("test", 12)):
        assert len(here[split]) == n
        np.testing.assert_array_equal(all_of(here[split])["inputs"], all_of(there[split])["inputs"])
    for row, label in zip(all_of(here["test"])["inputs"], here["test"].labels):
        assert bytes(row[:3].astype(np.uint8)) == (b"pos" if label else b"neg")
    assert load("imdb", folder, valid_share=0.0)["valid"] is not None


def test_a_truncated_archive_is_named_with_the_last_whole_file(tmp_path):
    records.write_imdb(tmp_path, n=40)
    path = shutil.make_archive(str(tmp_path / "aclImdb_v1"), "gztar", tmp_path, "aclImdb")
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) * 3 // 4)
    with pytest.raises(UserError, match=r"aclImdb_v1.tar.gz is truncated or corrupt after aclImdb/.*txt"):
        load("imdb", path)


def test_missing_reviews_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: there is no such file or folder"):
        load("imdb", tmp_path / "nowhere")
    shutil.rmtree(records.write_imdb(tmp_path) / "aclImdb" / "test" / "pos")
    with pytest.raises(UserError, match="no positive reviews of the test split"):
        load("imdb", tmp_path)


def test_pairs_of_papers(tmp_path):
    splits = load("aan", records.write_aan(tmp_path))
    assert {name: labels(split) for name, split in splits.items()} == {name: [0, 0, 0, 1, 1, 1] for name in splits}
    batch = all_of(splits["valid"])
    assert (batch["inputs"] != batch["others"]).any() and batch["others_padding_mask"].any(axis=1).all()


def test_a_pair_that_is_cut_off_is_named(tmp_path):
    path = records.write_aan(tmp_path) / "new_aan_pairs.eval.tsv"
    path.write_bytes(path.read_bytes() + b"1.0\tA1\tB2\tonly one")
    with pytest.raises(UserError, match=r"eval.tsv: line 7 has 4 fields"):
        load("aan", tmp_path)
    path.write_bytes(b"\tA1\tB2\tone\tother\n")
    with pytest.raises(UserError, match=r"line 1 has 5 fields and begins with b''"):
        load("aan", tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"there is no file \*.eval.tsv"):
        load("aan", tmp_path)
    with pytest.raises(UserError, match="no TensorFlow Dataset: give --config"):
        load("aan", "")


def test_pictures_are_grey_pixels_row_by_row(tmp_path):
    path = records.write_cifar(tmp_path)
    splits = load("cifar10", path, valid_share=0.2)
    assert [len(splits[name]) for name in ("train", "valid", "test")] == [16, 4, 10]
    with tarfile.open(path) as archive:
        raw = archive.extractfile("cifar-10-batches-bin/test_batch.bin").read()
    rows = np.frombuffer(raw, np.uint8).reshape(-1, 3073)
    expected = {row[0]: np.round(row[1:].reshape(3, -1).T @ [0.2989, 0.587, 0.114]) for row in rows}
    batch = all_of(splits["test"])
    for label, pixels in zip(batch["labels"], batch["inputs"]):
        np.testing.assert_array_equal(pixels, expected[label])


def test_a_batch_of_pictures_that_is_cut_off_is_named(tmp_path):
    with tarfile.open(tmp_path / "cut.tar", "w") as archive:
        records.add(archive, "data_batch_1.bin", bytes(3073 + 100))
    with pytest.raises(UserError, match=r"data_batch_1.bin has 3,173 bytes"):
        load("cifar10", tmp_path / "cut.tar")


def test_paths_are_read_and_empty_pictures_reported(tmp_path, capsys):
    splits = load("pathfinder", records.write_pathfinder(tmp_path, empty=(3,)))
    assert [len(splits[name]) for name in ("train", "valid", "test")] == [15, 2, 2]
    assert sum(split.labels.sum() for split in splits.values()) == 9  # of 10 odd pictures one is empty
    assert "1 of 20 records are empty and left out (imgs/0/sample_3.png first)" in capsys.readouterr().err
    assert all_of(splits["train"])["padding_mask"].all()


def test_a_picture_without_a_label_or_of_another_size_is_named(tmp_path):
    path = records.write_pathfinder(tmp_path)
    with tarfile.open(path, "a") as archive:
        name = "lra_release/pathfinder32/curv_contour_length_14/imgs/0/sample_99.png"
        records.add(archive, name, records.png(np.zeros((8, 8), np.uint8)))
    with pytest.raises(UserError, match=r"sample_99.png has no label"):
        load("pathfinder", path)
    with tarfile.open(path, "a") as archive:
        place = "lra_release/pathfinder32/curv_contour_length_14"
        records.add(archive, f"{place}/metadata/1.npy", b"imgs/0 sample_99.png 99 1\n")
    with pytest.raises(UserError, match=r"sample_99.png: a picture of 8 x 8 pixels; 32 x 32"):
        load("pathfinder", path)
    with pytest.raises(UserError, match="difficulty='harder'"):
        load("pathfinder", path, difficulty="harder")


def test_articles_have_title_and_plain_text_and_every_fold_has_its_share(tmp_path):
    folder = records.write_hyperpartisan(tmp_path)
    tests = []
    for fold in range(5):
        splits = load("hyperpartisan", folder, folds=5, fold=fold)
        assert [len(splits[name]) for name in ("train", "valid", "test")] == [14, 2, 4]
        assert splits["test"].labels.sum() in (1, 2)
        tests += [bytes(row.astype(np.uint16).tobytes()) for row in all_of(splits["test"])["inputs"]]
    assert len(set(tests)) == 20  # every article in one test split
    found = get_source("hyperpartisan").read_articles(str(folder))
    first, body = found[3].documents[0].decode().split("\n")[:2]
    assert first == "Title & 3" and body.endswith("and more") and "<" not in body and found[3].label == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({0: "true"}, "article 0000001 has no label"),
        ({i: "maybe" for i in range(20)}, "article 0000000 has hyperpartisan='maybe'"),
        ({i: "true" for i in range(21)}, "article 0000020 has no text"),
    ],
)
def test_articles_and_labels_must_belong_together(tmp_path, labels, message):
    with pytest.raises(UserError, match=message):
        load("hyperpartisan", records.write_hyperpartisan(tmp_path, labels=labels))


def test_damaged_articles_are_named(tmp_path):
    folder = records.write_hyperpartisan(tmp_path)
    path = folder / "articles-training-byarticle-20181122.xml"
    whole = path.read_bytes()
    packed = folder / f"{path.name}.xz"
    packed.write_bytes(lzma.compress(whole))
    path.unlink()
    assert len(load("hyperpartisan", folder)["test"]) == 2
    packed.write_bytes(lzma.compress(whole)[:-200])
    with pytest.raises(UserError, match=r"xml.xz is truncated or corrupt"):
        load("hyperpartisan", folder)
    packed.unlink()
    path.write_bytes(whole[:-300])
    with pytest.raises(UserError, match=r"articles-.*xml is no whole XML file"):
        load("hyperpartisan", folder)
    path.unlink()
    with pytest.raises(UserError, match="there is no file articles-"):
        load("hyperpartisan", folder)
    with pytest.raises(UserError, match="fold=5, folds=5"):
        load("hyperpartisan", folder, folds=5, fold=5)


def test_unknown_names_get_a_hint():
    with pytest.raises(UserError, match="did you mean 'imdb'"):
        get_source("imbd")
    for name in SOURCES:
        assert get_source(name).OPTIONS is not None
