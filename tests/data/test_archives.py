"""Archives: every format gives the same bytes, every damage one line that names the file."""

import gzip
import io
import lzma
import zipfile

import numpy as np
import pytest

from effjax.data.archives import read_archive
from effjax.errors import UserError

TEXT = np.random.default_rng(0).integers(0, 64, 20_000, np.uint8).tobytes()


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("folder")
        for name, data in files.items():
            archive.writestr(f"folder/{name}", data)
    return buffer.getvalue()


PACKED = {"text": TEXT, "text.zip": zipped(text=TEXT), "text.gz": gzip.compress(TEXT), "text.xz": lzma.compress(TEXT)}


@pytest.mark.parametrize("name", PACKED)
def test_formats_agree(tmp_path, name):
    (tmp_path / name).write_bytes(PACKED[name])
    assert read_archive(tmp_path / name) == TEXT


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "other"])
@pytest.mark.parametrize("name", [name for name in PACKED if "." in name])
def test_damage_is_refused(tmp_path, name, damage):
    data = bytearray(PACKED[name])
    if damage == "truncated":
        del data[len(data) // 2 :]
    elif damage == "flipped":
        for position in range(len(data) // 2, len(data) // 2 + 64):
            data[position] ^= 0x55
    else:
        data = b"" if damage == "empty" else b"<html>404 Not Found</html>"
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name} is truncated or corrupt"):
        read_archive(tmp_path / name)


def test_a_zip_holds_one_file(tmp_path):
    (tmp_path / "two.zip").write_bytes(zipped(one=b"1", two=b"2"))
    with pytest.raises(UserError, match=r"two\.zip: the archive holds 2 files"):
        read_archive(tmp_path / "two.zip")


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="nowhere: there is no such file"):
        read_archive(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot be read: IsADirectoryError"):
        read_archive(tmp_path)
