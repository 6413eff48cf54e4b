"""Corpora: the embedded sample, files by path, and everything that is refused."""

import hashlib
import lzma
import subprocess
import sys

import numpy as np
import pytest

from effjax.data import corpus as corpora
from effjax.data import load_corpus
from effjax.data.texts import OfficialText
from effjax.errors import UserError

TEXT = b"the quick brown fox\njumps over the lazy dog\n" * 50
FAKE = OfficialText("enwik8", "", hashlib.md5(TEXT).hexdigest(), (2000, 100, 100))


def test_importing_the_package_is_light():
    heavy = ("tensorflow_datasets", "tensorflow", "grain", "jax")
    code = f"import sys, effjax.data; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_sample():
    corpus = load_corpus("enwik8_sample")
    text = b"".join(part.tobytes() for part in corpus.splits.values())
    assert hashlib.md5(text).hexdigest() == "a7bf534fa985a59800d75a152f4a586f"
    assert corpus.bytes_per_split == {"train": 1_800_000, "valid": 100_000, "test": 100_000}
    assert list(corpus.splits) == ["train", "valid", "test"] and text.startswith(b"<mediawiki")
    share = np.bincount(corpus.splits["test"]) / 100_000
    assert -np.sum(share * np.log2(share, where=share > 0, out=np.zeros_like(share))) == pytest.approx(5.0, abs=0.15)


def test_bits_per_original_byte_need_no_more_than_the_corpus_holds():
    corpus = load_corpus("enwik8_sample", vocabulary="drop_newlines")
    newlines = load_corpus("enwik8_sample").vocabulary.decode(load_corpus("enwik8_sample").splits["test"]).count(b"\n")
    assert newlines > 0 and len(corpus.splits["test"]) == corpus.bytes_per_split["test"] - newlines
    ends = load_corpus("enwik8_sample", vocabulary="newline_eos")
    assert all(len(ends.splits[split]) == ends.bytes_per_split[split] + 1 for split in ends.splits)


@pytest.mark.parametrize("suffix", ["", ".xz"])
def test_an_official_text_by_path(tmp_path, monkeypatch, suffix):
    monkeypatch.setitem(corpora.OFFICIAL, "enwik8", FAKE)
    path = tmp_path / f"enwik8{suffix}"
    path.write_bytes(lzma.compress(TEXT) if suffix else TEXT)
    corpus = load_corpus("enwik8", path=str(path), vocabulary="bytes+2")
    assert corpus.vocabulary.decode(corpus.splits["valid"]) == TEXT[2000:2100]
    assert corpus.splits["train"].dtype == np.uint16
    path.write_bytes(lzma.compress(TEXT[:-1]) if suffix else TEXT[:-1])
    with pytest.raises(UserError, match=r"2,199 bytes, enwik8 has 2,200; .*--config.data.name=bytes_file"):
        load_corpus("enwik8", path=str(path))
    path.write_bytes(lzma.compress(TEXT[:-1] + b"!") if suffix else TEXT[:-1] + b"!")
    with pytest.raises(UserError, match="has md5 .* enwik8 has " + FAKE.md5):
        load_corpus("enwik8", path=str(path))


def test_the_official_figures():
    for name, md5 in (("enwik8", "a1fa5ffddb56f4953e226637dabbb36a"), ("text8", "3bea1919949baf155f99411df5fada7e")):
        text = corpora.OFFICIAL[name]
        assert (text.md5, text.split_bytes) == (md5, (90_000_000, 5_000_000, 5_000_000))
        assert text.url == f"http://mattmahoney.net/dc/{name}.zip"


def test_any_file(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(TEXT[:107])
    corpus = load_corpus("bytes_file", path=str(path))
    assert corpus.bytes_per_split == {"train": 97, "valid": 5, "test": 5}
    assert b"".join(part.tobytes() for part in corpus.splits.values()) == TEXT[:107]


@pytest.mark.parametrize("length", [0, 1, 39])
def test_too_short_a_file(tmp_path, length):
    (tmp_path / "short").write_bytes(TEXT[:length])
    with pytest.raises(UserError, match=f"short holds {length} bytes; at least 40"):
        load_corpus("bytes_file", path=str(tmp_path / "short"))


def test_what_is_refused(tmp_path):
    with pytest.raises(UserError, match="did you mean 'enwik8'"):
        load_corpus("enwiki8")
    with pytest.raises(UserError, match=r"--config\.data\.path="):
        load_corpus("bytes_file")
    with pytest.raises(UserError, match="takes no path"):
        load_corpus("enwik8_sample", path="enwik8.zip")
    with pytest.raises(UserError, match="no such file"):
        load_corpus("text8", path=str(tmp_path / "text8.zip"))
    with pytest.raises(UserError, match="no vocabulary 'words'"):
        load_corpus("enwik8_sample", vocabulary="words")
    with pytest.raises(UserError, match=r"enwik8_sample, train split: byte 0x3c .*position 0"):
        load_corpus("enwik8_sample", vocabulary="text8")
