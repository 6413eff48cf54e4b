"""Vocabularies: sizes, orders and what happens to the bytes they lack."""

import hashlib

import numpy as np
import pytest

from effjax.data import get_vocabulary, load_corpus
from effjax.data.vocabularies import ENWIK8_BYTES, VOCABULARIES
from effjax.errors import UserError

SIZES = {"bytes": 256, "bytes+2": 258, "drop_newlines": 204, "newline_eos": 205, "text8": 27, "text8_eos": 28}


def test_sizes_are_the_published_ones():
    assert {name: vocabulary.size for name, vocabulary in VOCABULARIES.items()} == SIZES


def test_enwik8_bytes_are_those_counted_in_the_whole_file():
    # Derived once from all 100,000,000 bytes; the sample can only show that none of its own is lacking.
    assert len(ENWIK8_BYTES) == 205 and list(ENWIK8_BYTES) == sorted(set(ENWIK8_BYTES))
    assert hashlib.md5(ENWIK8_BYTES).hexdigest() == "2dea94c3312131e897a68d1b498c5700"
    corpus = load_corpus("enwik8_sample")
    assert set(np.concatenate(list(corpus.splits.values())).tolist()) <= set(ENWIK8_BYTES)


@pytest.mark.parametrize("name", SIZES)
def test_every_id_comes_back(name):
    vocabulary = get_vocabulary(name)
    text = b"".join(vocabulary.symbols)
    ids = vocabulary.encode(text)
    assert ids.dtype == vocabulary.dtype and np.iinfo(vocabulary.dtype).max >= vocabulary.size - 1
    assert ids.tolist() == [index for index, symbol in enumerate(vocabulary.symbols) if symbol]
    assert vocabulary.decode(ids) == text


def test_ids():
    assert get_vocabulary("bytes").encode(b"a\x00\xff").tolist() == [97, 0, 255]
    assert get_vocabulary("bytes+2").encode(b"a\x00\xff").tolist() == [99, 2, 257]
    assert get_vocabulary("text8").encode(b" az").tolist() == [0, 1, 26]
    assert get_vocabulary("newline_eos").encode(b"\t\n ").tolist() == [0, 1, 2]
    assert get_vocabulary("drop_newlines").encode(b"\t\n ").tolist() == [0, 1]


def test_padding_and_end_are_no_bytes():
    assert get_vocabulary("bytes+2").decode(np.array([0, 99, 1])) == b"a"


def test_newlines_are_dropped_and_nothing_else():
    vocabulary = get_vocabulary("drop_newlines")
    assert vocabulary.drops_bytes
    assert vocabulary.decode(vocabulary.encode(b"\none\n\ntwo\n")) == b"onetwo"
    assert not any(VOCABULARIES[name].drops_bytes for name in SIZES if name != "drop_newlines")


@pytest.mark.parametrize("name", ["newline_eos", "text8_eos"])
def test_a_file_ends_with_one_eos(name):
    """Adaptive span reads line by line and puts an <eos> after each, so a last line without newline gets one too."""
    vocabulary = get_vocabulary(name)
    eos = vocabulary.encode(b"\n").item()
    assert vocabulary.encode(b"ab", end_of_file=True).tolist() == [*vocabulary.encode(b"ab").tolist(), eos]
    assert vocabulary.encode(b"ab\n", end_of_file=True).tolist() == [*vocabulary.encode(b"ab").tolist(), eos]
    assert vocabulary.encode(b"", end_of_file=True).size == 0
    assert get_vocabulary("bytes").encode(b"ab", end_of_file=True).tolist() == [97, 98]


@pytest.mark.parametrize("name", ["text8", "drop_newlines"])
def test_an_unknown_byte_is_named_with_its_position(name):
    with pytest.raises(UserError, match=r"0xff.*position 5.*" + name):
        get_vocabulary(name).encode(b"ab cd\xffe\xff")


def test_ids_outside_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 26\]"):
        get_vocabulary("text8").decode(np.array([3, 27]))
    with pytest.raises(ValueError, match="-1"):
        get_vocabulary("text8").decode(np.array([-1]))


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UserError, match="did you mean 'newline_eos'"):
        get_vocabulary("newlines_eos")
