"""Archives: every format gives the same bytes, every damage one line that names the file."""

import gzip
import io
import lzma
import tarfile
import zipfile

import numpy as np
import pytest

from effjax.data.archives import DAMAGE, read_archive, tar_files
from effjax.data.packed_files import packed_files
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


@pytest.mark.parametrize(
    ("local", "central", "value", "message"),
    [(6, 8, 1, "password"), (8, 10, 99, "compression method is not supported")],  # fields of the two headers of a file
    ids=["locked", "packed_otherwise"],
)
def test_a_zip_that_cannot_be_unpacked_is_said_to_be_damaged(tmp_path, local, central, value, message):
    data = bytearray(zipped(text=TEXT))
    for start, field in ((data.rindex(b"PK\x03\x04"), local), (data.rindex(b"PK\x01\x02"), central)):
        data[start + field] = value
    (tmp_path / "text.zip").write_bytes(data)
    with pytest.raises(UserError, match=rf"text\.zip is truncated or corrupt: .*{message}"):
        read_archive(tmp_path / "text.zip")
    with pytest.raises(UserError, match=rf"text\.zip is truncated or corrupt after its beginning: .*{message}"):
        list(packed_files(str(tmp_path / "text.zip"), lambda name: True))


def test_a_zip_holds_one_file(tmp_path):
    (tmp_path / "two.zip").write_bytes(zipped(one=b"1", two=b"2"))
    with pytest.raises(UserError, match=r"two\.zip: the archive holds 2 files"):
        read_archive(tmp_path / "two.zip")


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="nowhere: there is no such file"):
        read_archive(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot be read: IsADirectoryError"):
        read_archive(tmp_path)


FILES = {f"folder/{i}.txt": TEXT[300 * i : 300 * i + 400 * (i % 3)] for i in range(12)}


def tarred(packed):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{packed}") as archive:
        for name, data in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("packed", ["", "gz", "bz2", "xz"])
def test_a_tar_archive_is_read_whole_or_not_at_all(packed):
    whole = tarred(packed)
    assert dict(tar_files(io.BytesIO(whole))) == FILES
    assert list(dict(tar_files(io.BytesIO(whole), lambda name: "1" in name))) == [name for name in FILES if "1" in name]
    ends = max(len(whole.rstrip(bytes(1))), 0) // 512 * 512 + 512 if not packed else len(whole) - 1
    for cut in [*range(0, ends, 97), ends]:  # a plain one: behind the last file, before the mark of the end
        with pytest.raises((*DAMAGE, OSError)):
            dict(tar_files(io.BytesIO(whole[:cut])))


def test_a_damaged_header_is_not_taken_for_the_end_of_an_archive():
    damaged = bytearray(tarred(""))
    damaged[damaged.index(b"folder/7.txt")] ^= 1
    with pytest.raises(tarfile.ReadError, match="bad checksum"):
        dict(tar_files(io.BytesIO(bytes(damaged))))
