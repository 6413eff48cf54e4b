"""Hyperpartisan news by article (SemEval-2019 task 4): a folder or archive of `articles-*.xml`, `ground-truth-*.xml`.

The 645 labelled articles have no published split into train, valid and test: `options.fold` of `options.folds` parts is
the test split, and of the others a share the valid one. Each part has as many articles of each class as the others.
"""

import lzma
import re
import xml.etree.ElementTree as xml

import numpy as np

from effjax.data.labelled import Labelled, Record, collect, hold_out
from effjax.data.packed_files import packed_files
from effjax.data.text_ids import encode, vocab_size
from effjax.errors import UserError

__all__ = [
    "CLASSES",
    "OPTIONS",
    "article_text",
    "encode",
    "fold_of",
    "load",
    "read_articles",
    "read_input",
    "vocab_size",
]

CLASSES = ("mainstream", "hyperpartisan")
OPTIONS = dict(folds=10, fold=0, valid_share=0.1)
_FILE = re.compile(r"(?:^|/)(articles|ground-truth)-[^/]*byarticle[^/]*\.xml(\.xz)?$")
_LABELS = {"false": 0, "true": 1}


def read_input(config, data: bytes) -> bytes:
    """The text of an article: of the one in an XML file, else what is given."""
    if not data.lstrip().startswith(b"<"):
        return data
    root = _parse(data, "the input")
    article = root if root.tag == "article" else root.find(".//article")
    if article is None:
        raise UserError("there is no <article> in it")
    return article_text(article)


def load(config) -> dict[str, Labelled]:
    """The splits of one fold.

    Raises:
      UserError: a file that is missing or cut off, an article without a label or the other way round, no such fold.
    """
    options, path = config.options, config.data.path
    if not path:
        raise UserError(
            "the articles are no TensorFlow Dataset: give --config.data.path=, the folder with "
            "articles-training-byarticle-20181122.xml and ground-truth-training-byarticle-20181122.xml (or .xz of them)"
        )
    if not 0 <= options.fold < options.folds or options.folds < 2:
        raise UserError(f"config.options.fold={options.fold}, folds={options.folds}; 0 to folds - 1 of 2 or more")
    encoder = lambda text: encode(config, text)
    whole = collect(read_articles(path), encoder, origin=path, classes=2, length=config.data.length)
    part = fold_of(whole.labels, options.folds)
    rest, test = whole.take(np.flatnonzero(part != options.fold)), whole.take(np.flatnonzero(part == options.fold))
    train, valid = hold_out(rest, options.valid_share)
    return {"train": train, "valid": valid, "test": test}


def fold_of(labels: np.ndarray, folds: int) -> np.ndarray:
    """The part that each example belongs to: those of a class in turn, one class after where the other stopped."""
    order = np.argsort(labels, kind="stable")
    part = np.empty(len(labels), np.int64)
    part[order] = np.arange(len(labels)) % folds
    return part


def read_articles(path: str) -> list[Record]:
    """The articles, their title first, by number."""
    texts, labels = {}, {}
    for name, data in packed_files(path, lambda name: bool(_FILE.search(name))):
        try:
            data = lzma.decompress(data) if name.endswith(".xz") else data
        except (lzma.LZMAError, EOFError) as error:
            raise UserError(f"{path}: {name} is truncated or corrupt: {error}") from error
        for article in _parse(data, f"{path}: {name}").iter("article"):
            number = article.get("id")
            if _FILE.search(name)[1] == "articles":
                texts[number] = article_text(article)
                continue
            label = article.get("hyperpartisan")
            if label not in _LABELS:
                raise UserError(
                    f"{path}: {name}: article {number} has hyperpartisan={label!r}; true or false is needed"
                )
            labels[number] = _LABELS[label]
    for kind, found in (("articles-", texts), ("ground-truth-", labels)):
        if not found:
            raise UserError(f"{path}: there is no file {kind}…byarticle….xml with articles in it")
    for here, there, what in ((texts, labels, "label"), (labels, texts, "text")):
        if lost := next((number for number in here if number not in there), None):
            raise UserError(f"{path}: article {lost} has no {what}")
    return [Record(f"article {number}", labels[number], (texts[number],)) for number in sorted(texts)]


def article_text(article) -> bytes:
    """Title and paragraphs as lines of plain text; an article without paragraphs is empty."""
    body = " ".join("".join(article.itertext()).split())
    return f"{article.get('title', '')}\n{body}\n".encode() if body else b""


def _parse(data: bytes, origin: str):
    try:
        return xml.fromstring(data)
    except xml.ParseError as error:
        raise UserError(f"{origin} is no whole XML file: {error}") from error
