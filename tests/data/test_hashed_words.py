import zlib

import numpy as np
import pytest

from effjax.data.vocabularies import get_vocabulary
from effjax.errors import UserError


def test_a_word_has_one_id_whatever_its_letters_and_neighbours():
    vocabulary = get_vocabulary("hashed_words:5000")
    one, two = vocabulary.encode(b"The cat's hat, 12 hats."), vocabulary.encode(b"a HAT for THE cat's")
    words = [b"the", b"cat's", b"hat", b",", b"12", b"hats", b"."]
    assert one.tolist() == [zlib.crc32(word) % 5000 for word in words]
    assert one[2] == two[1] and one[0] == two[3] and one[1] == two[4]
    assert vocabulary.count(b"The cat's hat, 12 hats.") == 7 and one.dtype == np.uint16
    assert len(vocabulary.encode(b" \n")) == 0 and vocabulary.encode("naïve".encode()).size == 1


def test_it_cannot_write():
    with pytest.raises(UserError, match="hashed_words:5000 cannot be turned back"):
        get_vocabulary("hashed_words:5000").decode(np.array([1]))
    with pytest.raises(UserError, match="hashed_words:1 is too small"):
        get_vocabulary("hashed_words:1")
