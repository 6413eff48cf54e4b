"""Tiny records in the official formats, written into a folder."""

import io
import tarfile

import numpy as np
from PIL import Image

WORDS = "a fine dull film with the plot and cast of no or some wit".split()


def text(rng, words=40):
    return " ".join(rng.choice(WORDS, words)).encode()


def write_imdb(folder, n=6):
    """`n` reviews of each class and split."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label, rating in (("neg", 2), ("pos", 9)):
            place = folder / "aclImdb" / split / label
            place.mkdir(parents=True)
            for i in range(n):
                (place / f"{i}_{rating}.txt").write_bytes(label.encode() + b" " + text(rng))
    (folder / "aclImdb" / "train" / "urls_pos.txt").write_text("http://no.review\n")
    return folder


def write_aan(folder, n=6):
    rng = np.random.default_rng(0)
    for part in ("train", "eval", "test"):
        lines = [b"\t".join([b"%.1f" % (i % 2), b"A1", b"B2", text(rng), text(rng)]) for i in range(n)]
        (folder / f"new_aan_pairs.{part}.tsv").write_bytes(b"\n".join(lines) + b"\n")
    return folder


def write_cifar(folder, n=10):
    rng = np.random.default_rng(0)
    path = folder / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"):
            rows = np.concatenate([np.arange(n)[:, None] % 10, rng.integers(0, 256, (n, 3072))], axis=1)
            add(archive, f"cifar-10-batches-bin/{name}", rows.astype(np.uint8).tobytes())
    return path


def write_pathfinder(folder, n=20, empty=()):
    rng = np.random.default_rng(0)
    path = folder / "lra_release.tar"
    place, lines = "lra_release/pathfinder32/curv_contour_length_14", []
    with tarfile.open(path, "w") as archive:
        for i in range(n):
            data = b"" if i in empty else png(rng.integers(0, 256, (32, 32)).astype(np.uint8))
            add(archive, f"{place}/imgs/0/sample_{i}.png", data)
            lines.append(f"imgs/0 sample_{i}.png {i} {i % 2} 0.5 6")
        add(archive, f"{place}/metadata/0.npy", "\n".join(lines).encode() + b"\n")
    return path


def write_hyperpartisan(folder, n=20, labels=None):
    rng = np.random.default_rng(0)
    labels = labels or {i: str(i % 3 == 0).lower() for i in range(n)}
    articles = "".join(
        f'<article id="{i:07}" published-at="2017-01-01" title="Title &amp; {i}">\n<p>{text(rng).decode()}</p> and '
        f'<a href="x">more</a></article>\n'
        for i in range(n)
    )
    truth = "".join(f'<article hyperpartisan="{label}" id="{i:07}" url="x"/>\n' for i, label in labels.items())
    head = '<?xml version="1.0" encoding="UTF-8"?>'
    (folder / "articles-training-byarticle-20181122.xml").write_text(f"{head}<articles>{articles}</articles>")
    (folder / "ground-truth-training-byarticle-20181122.xml").write_text(f"{head}<articles>{truth}</articles>")
    return folder


def write_books(folder, sizes=((700, 0, 300), (400,), (250, 350)), splits=("train", "validation", "test")):
    """Books of so many bytes in each split."""
    rng, number = np.random.default_rng(0), 0
    for split, lengths in zip(splits, sizes):
        (folder / split).mkdir()
        for length in lengths:
            number += 1
            (folder / split / f"{number}.txt").write_bytes(rng.integers(97, 123, length).astype(np.uint8).tobytes())
    return folder


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def add(archive, name, data):
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))
