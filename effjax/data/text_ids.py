"""Documents of text as ids: what data sets of labelled texts have in common."""

import numpy as np

from effjax.data.vocabularies import get_vocabulary


def vocab_size(config) -> int:
    """Ids of `config.data.vocabulary`."""
    return get_vocabulary(config.data.vocabulary).size


def encode(config, text: bytes) -> np.ndarray:
    """The ids of a document, `[T]`, in `config.data.vocabulary`.

    Raises:
      UserError: a byte outside the vocabulary.
    """
    return get_vocabulary(config.data.vocabulary).encode(text)
