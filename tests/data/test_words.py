"""Word vocabularies: which words, in which order, and texts there and back."""

import numpy as np
import pytest

from effjax.data import get_vocabulary, load_corpus, words
from effjax.errors import UserError

TEXT = b" the cat sat \n\n the <unk> sat on the mat \n on\tit sat"


@pytest.fixture(params=[1 << 24, 7], ids=["whole", "pieces"])
def vocabulary(request, monkeypatch):
    monkeypatch.setattr(words, "PIECE_BYTES", request.param)
    return get_vocabulary("words:6").learn(TEXT)


def test_words_by_frequency_and_then_by_appearance(vocabulary):
    assert vocabulary.words == ("<eos>", "the", "sat", "on", "cat", "<unk>")
    assert (vocabulary.size, vocabulary.name, vocabulary.dtype) == (6, "words:6", np.int32)
    assert get_vocabulary("words:3").learn(b"a b b").words == ("<eos>", "<unk>", "b")


def test_every_line_ends_and_rare_words_are_unknown(vocabulary):
    ids = vocabulary.encode(TEXT, end_of_file=True)
    assert ids.tolist() == [1, 4, 2, 0, 0, 1, 5, 2, 3, 1, 5, 0, 3, 5, 2, 0]
    assert vocabulary.encode(TEXT).tolist() == ids[:-1].tolist()
    assert vocabulary.encode(TEXT + b"\n", end_of_file=True).tolist() == ids.tolist()
    assert vocabulary.count(TEXT) == get_vocabulary("words:6").count(TEXT) == 15
    assert vocabulary.decode(ids[:6]) == b"the cat sat \n \n the"
    assert vocabulary.encode(vocabulary.decode(ids)).tolist() == ids.tolist()
    assert vocabulary.encode(b"").size == 0 and vocabulary.encode(b"cat\xff").tolist() == [5]


def test_mistakes_are_named(vocabulary):
    with pytest.raises(UserError, match="gives 8 words with <eos>, words:9 needs more"):
        get_vocabulary("words:9").learn(TEXT)
    with pytest.raises(UserError, match="words:2 has no room"):
        get_vocabulary("words:2")
    with pytest.raises(UserError, match="words:N"):
        get_vocabulary("words:many")
    with pytest.raises(ValueError, match="words:6 is not known before a text is read"):
        get_vocabulary("words:6").encode(TEXT)
    with pytest.raises(ValueError, match=r"allows \[0, 5\]"):
        vocabulary.decode(np.array([6]))


def test_any_text_in_words():
    """The sample of enwik8, whose splits end wherever a byte does."""
    corpus = load_corpus("enwik8_sample", vocabulary="words:500")
    assert corpus.vocabulary.words[:2] == ("<eos>", "<unk>") and len(corpus.vocabulary.words) == 500
    assert {split: ids.dtype for split, ids in corpus.splits.items()} == dict.fromkeys(
        corpus.splits, np.dtype(np.int32)
    )
    assert all(0 <= ids.min() and ids.max() < 500 for ids in corpus.splits.values())
    counts = np.bincount(corpus.splits["train"], minlength=500)
    assert (np.diff(counts[2:]) <= 0).all()
    assert corpus.bytes_per_split == {"train": 1_800_000, "valid": 100_000, "test": 100_000}
