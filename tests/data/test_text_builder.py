"""The TensorFlow Datasets builders, without a network and without TensorFlow."""

import functools
import hashlib
import http.server
import io
import sys
import threading
import time
import zipfile

import pytest
import tensorflow_datasets as tfds

from effjax.data import load_corpus, texts
from effjax.data.enwik8 import Enwik8
from effjax.data.text8 import Text8
from effjax.data.text_builder import TextBuilder, read_or_download
from effjax.errors import UserError

TEXT = bytes(range(256)) * 12_000  # 3 MB: several examples a split
SPLITS = (2_872_000, 100_000, 100_000)
CLOSED = "http://127.0.0.1:9"  # the discard port, on which nothing listens


class TinyText(TextBuilder):
    """A fake of an official text; the tests below put a server's address into it."""

    TEXT = texts.OfficialText(
        "tiny_text", f"{CLOSED}/tiny.zip", hashlib.md5(TEXT).hexdigest(), (2_872_000, 100_000, 100_000)
    )


def test_archives_are_registered():
    enwik8, text8 = Enwik8.url_infos[texts.ENWIK8.url], Text8.url_infos[texts.TEXT8.url]
    assert (enwik8.size, text8.size) == (36_445_475, 31_344_016)
    assert (enwik8.checksum[:8], text8.checksum[:8]) == ("547994d9", "a6640522")
    assert tfds.builder_cls("enwik8") is Enwik8 and tfds.builder_cls("text8") is Text8


def test_missing_data_names_the_two_ways_at_once(tmp_path):
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"either run once where http://.* or .*--config.data.path=") as caught:
        read_or_download(TinyText, tmp_path)
    assert "\n" not in str(caught.value) and time.monotonic() - begin < 20


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """A web server for one folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def serve(monkeypatch, server, data):
    folder, address = server
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny", data)
    (folder / "tiny.zip").write_bytes(buffer.getvalue())
    text = texts.OfficialText("tiny_text", f"{address}/tiny.zip", TinyText.TEXT.md5, SPLITS)
    monkeypatch.setattr(TinyText, "TEXT", text)


@pytest.mark.slow
def test_download_prepare_and_read(tmp_path, monkeypatch, server):
    serve(monkeypatch, server, TEXT)
    parts = read_or_download(TinyText, tmp_path / "prepared")
    assert b"".join(parts.values()) == TEXT and tuple(len(part) for part in parts.values()) == SPLITS

    (server[0] / "tiny.zip").unlink()  # from now on there is no network
    assert read_or_download(TinyText, tmp_path / "prepared") == parts
    source = tfds.data_source("tiny_text", split="train", data_dir=tmp_path / "prepared")
    assert [int(example["offset"]) for example in source] == [0, 1 << 20, 2 << 20]
    assert source[2]["text"] == parts["train"][2 << 20 :]
    assert "tensorflow" not in sys.modules

    (file,) = (tmp_path / "prepared").glob("tiny_text/1.0.0/*train.array_record*")
    file.write_bytes(file.read_bytes()[:70_000])
    with pytest.raises(UserError, match=r"tiny_text/1\.0\.0 cannot be read .* remove it"):
        read_or_download(TinyText, tmp_path / "prepared")


@pytest.mark.slow
def test_a_wrong_download_is_refused(tmp_path, monkeypatch, server):
    serve(monkeypatch, server, TEXT[:-1] + b"!")
    with pytest.raises(UserError, match=r"tiny\.zip has md5"):
        read_or_download(TinyText, tmp_path / "prepared")


@pytest.mark.slow
def test_load_corpus_goes_through_the_builder(tmp_path, monkeypatch, server):
    serve(monkeypatch, server, TEXT)
    monkeypatch.setattr(Enwik8, "TEXT", TinyText.TEXT)
    corpus = load_corpus("enwik8", cache_dir=tmp_path / "prepared")
    assert corpus.splits["test"].tobytes() == TEXT[-100_000:]
