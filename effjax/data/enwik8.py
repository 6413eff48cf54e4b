"""enwik8 for TensorFlow Datasets: `tfds.data_source("enwik8")` once this module is imported."""

from effjax.data import texts
from effjax.data.text_builder import TextBuilder


class Enwik8(TextBuilder):
    """The first 10^8 bytes of the English Wikipedia's dump of 3 March 2006, raw: 90M/5M/5M bytes, in order."""

    TEXT = texts.ENWIK8
