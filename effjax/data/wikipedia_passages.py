"""Do two paragraphs follow one another? Pairs from the sample of Wikipedia that ships with the package."""

from collections.abc import Iterator

import numpy as np

from effjax.data.labelled import SPLIT_SEED, Labelled, Record
from effjax.data.text_ids import encode, vocab_size
from effjax.data.wikipedia import SPLITS, labelled_splits, read_articles

__all__ = ["CLASSES", "OPTIONS", "PAIRS", "encode", "load", "vocab_size"]

CLASSES = ("unrelated", "related")
PAIRS = True
OPTIONS = {}


def load(config) -> dict[str, Labelled]:
    """The splits, as `effjax.data.wikipedia.labelled_splits` has them."""
    return labelled_splits(config, _records)


def _records(split: str) -> Iterator[Record]:
    """Every paragraph twice: with the next of its article, and with one of another article, drawn once and for all."""
    articles = [article for article in read_articles()[split] if len(article.paragraphs) > 1]
    rng = np.random.default_rng((SPLIT_SEED, list(SPLITS).index(split)))
    for i, article in enumerate(articles):
        for j, (first, second) in enumerate(zip(article.paragraphs, article.paragraphs[1:]), 1):
            others = articles[(i + rng.integers(1, len(articles))) % len(articles)].paragraphs
            other = others[rng.integers(len(others))]
            for label, text in ((1, second), (0, other)):
                yield Record(f"{article.names['en']}, paragraph {j}", label, (first.encode(), text.encode()))
