"""text8 for TensorFlow Datasets: `tfds.data_source("text8")` once this module is imported."""

from effjax.data import texts
from effjax.data.text_builder import TextBuilder


class Text8(TextBuilder):
    """10^8 characters of cleaned English Wikipedia, a to z and space: 90M/5M/5M characters, in order."""

    TEXT = texts.TEXT8
