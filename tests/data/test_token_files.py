"""WikiText-103 and texts of its form, on tiny archives: read, verified, derived once."""

import hashlib
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from effjax.data import load_corpus, token_files
from effjax.data.token_files import WIKITEXT103, TokenFiles, TokenText
from effjax.data.wikitext103 import WikiText103
from effjax.data.words import WordVocabulary
from effjax.errors import UserError

PARTS = {
    "train": b" \n = Robert <unk> = \n \n Robert is an actor . He is \xe2\x80\x93 so he says \xe2\x80\x93 no actor .\n",
    "valid": b" \n = An actor = \n",
    "test": b" \n = No actor = \n",
}
WORDS = 14


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "wikitext-103"
    folder.mkdir()
    for split, part in PARTS.items():
        (folder / f"wiki.{split}.tokens").write_bytes(part)
    return folder


@pytest.fixture
def archive(tmp_path, folder):
    path = tmp_path / "wikitext-103-v1.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("wikitext-103")
        for split in PARTS:
            archive.write(folder / f"wiki.{split}.tokens", f"wikitext-103/wiki.{split}.tokens")
    return path


@pytest.fixture(params=["archive", "folder"])
def source(request):
    return request.getfixturevalue(request.param)


def load(path, size=WORDS):
    return load_corpus("token_files", path=str(path), vocabulary=f"words:{size}")


def test_three_parts_in_words_and_in_bytes(source):
    corpus = load(source)
    words = corpus.vocabulary.words
    assert words[0] == "<eos>" and words[1:6] == ("=", "Robert", "is", "actor", ".")
    train = corpus.splits["train"]
    assert corpus.vocabulary.decode(train).decode().split() == PARTS["train"].decode().split()
    assert (train == 0).sum() == PARTS["train"].count(b"\n") and train.dtype == np.int32
    assert corpus.bytes_per_split == {split: len(part) for split, part in PARTS.items()}
    raw = load_corpus("token_files", path=str(source), vocabulary="bytes")
    assert raw.splits["valid"].tobytes() == PARTS["valid"]


def test_what_is_derived_is_read_the_next_time(source, monkeypatch):
    first = load(source)
    with monkeypatch.context() as patched:
        patched.setattr(WordVocabulary, "learn", None)
        patched.setattr(TokenFiles, "parts", None)
        again = load(source)
    assert again.vocabulary.words == first.vocabulary.words and again.bytes_per_split == first.bytes_per_split
    for split in PARTS:
        np.testing.assert_array_equal(again.splits[split], first.splits[split])
    assert len(load(source, 5).vocabulary.words) == 5  # another size, another file
    assert len(list((source if source.is_dir() else source.parent).glob("*words-*.npz"))) == 2


def test_another_text_is_derived_anew(folder):
    load(folder)
    (folder / "wiki.valid.tokens").write_bytes(b" Robert \n")
    assert load(folder).splits["valid"].tolist() == [2, 0]


def test_a_damaged_derived_file_is_named(folder):
    load(folder)
    derived = folder / f"words-{WORDS}.npz"
    derived.write_bytes(derived.read_bytes()[:100])
    with pytest.raises(UserError, match=rf"words-{WORDS}.npz is damaged .* remove it"):
        load(folder)


def test_a_folder_that_is_only_to_be_read_is_no_obstacle(folder, monkeypatch, capsys):
    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(token_files, "save_derived", refuse)
    assert load(folder).splits["valid"].size
    assert "cannot be written (read-only)" in capsys.readouterr().err


def test_the_official_archive_and_nothing_else(archive, folder, monkeypatch):
    with pytest.raises(UserError, match=r"has sha256 .*wikitext103 has 242ba0f2.*name=token_files"):
        load_corpus("wikitext103", path=str(archive), vocabulary="words:267735")
    with pytest.raises(UserError, match=r"holds \d lines, wikitext103 has 1,809,468"):
        load_corpus("wikitext103", path=str(folder), vocabulary="words:267735")
    tiny = TokenText("wikitext103", "", hashlib.sha256(archive.read_bytes()).hexdigest(), (4, 2, 2))
    monkeypatch.setattr("effjax.data.corpus.WIKITEXT103", tiny)
    for path in (archive, folder):
        assert load_corpus("wikitext103", path=str(path), vocabulary=f"words:{WORDS}").splits["test"].size


def test_the_archive_is_registered_with_tensorflow_datasets():
    info = WikiText103.url_infos[WIKITEXT103.url]
    assert (info.size, info.checksum) == (190_229_076, WIKITEXT103.sha256)
    assert tfds.builder_cls("wiki_text103") is WikiText103


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda archive: archive.unlink(), "no such file or folder"),
        (lambda archive: archive.write_bytes(archive.read_bytes()[:150]), "truncated or corrupt"),
        (lambda archive: archive.write_bytes(b"PK\x05\x06" + bytes(18)), "no file wiki.train.tokens in this archive"),
    ],
)
def test_archives_that_cannot_be_read_are_named(archive, damage, words):
    damage(archive)
    with pytest.raises(UserError, match=words):
        load(archive)


def test_paths_that_are_missing_are_named(folder):
    (folder / "wiki.test.tokens").unlink()
    with pytest.raises(UserError, match=r"no file wiki.test.tokens in this folder"):
        load(folder)
    with pytest.raises(UserError, match=r"--config.data.path="):
        load_corpus("token_files", vocabulary="words:10")
