"""Byte and character streams: official splits, named vocabularies, readers and the scorer's windows.

Importing this package imports neither TensorFlow Datasets nor Grain; they are loaded where they are first used.
"""

from effjax.data.corpus import Corpus, load_corpus
from effjax.data.scoring import scoring_batches, scoring_streams
from effjax.data.streams import StreamReader
from effjax.data.vocabularies import Vocabulary, get_vocabulary
from effjax.data.windows import WindowReader

__all__ = [
    "Corpus",
    "StreamReader",
    "Vocabulary",
    "WindowReader",
    "get_vocabulary",
    "load_corpus",
    "scoring_batches",
    "scoring_streams",
]
