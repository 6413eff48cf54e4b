"""Is a paragraph from the life of a person? From the sample of Wikipedia in the package, by categories."""

import re
from collections.abc import Iterator

from effjax.data.labelled import Labelled, Record
from effjax.data.text_ids import encode, vocab_size
from effjax.data.wikipedia import Article, labelled_splits, read_articles

__all__ = ["CLASSES", "OPTIONS", "encode", "is_person", "load", "vocab_size"]

CLASSES = ("other", "person")
OPTIONS = {}
_PERSON = re.compile(r"(births|deaths)$|^Living people$")


def load(config) -> dict[str, Labelled]:
    """The splits, as `effjax.data.wikipedia.labelled_splits` has them."""
    return labelled_splits(config, _records)


def is_person(article: Article) -> bool:
    """Whether Wikipedia has the article among births, deaths or living people."""
    return any(_PERSON.search(category) for category in article.categories)


def _records(split: str) -> Iterator[Record]:
    for article in read_articles()[split]:
        for i, paragraph in enumerate(article.paragraphs, 1):
            yield Record(f"{article.names['en']}, paragraph {i}", int(is_person(article)), (paragraph.encode(),))
