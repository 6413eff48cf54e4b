import numpy as np
import pytest

from effjax.data.masking import MaskedReader, hide, masked_scoring_batches
from effjax.data.windows import WindowReader
from effjax.errors import UserError

TEXT = np.random.default_rng(0).integers(0, 50, 5000).astype(np.uint8)


def test_shares_of_what_is_hidden():
    tokens = np.full((400, 500), 7)
    inputs, weights = hide(tokens, (1, 2), vocab_size=50)
    assert weights.mean() == pytest.approx(0.15, abs=0.005)
    assert (inputs == tokens)[weights == 0].all()
    gaps = inputs[weights == 1]
    assert (gaps == 50).mean() == pytest.approx(0.8, abs=0.01)
    assert (gaps == 7).mean() == pytest.approx(0.1 + 0.1 / 50, abs=0.01)
    assert set(gaps) == set(range(51))


def test_gaps_depend_on_the_seed_and_the_place_alone():
    whole = hide(TEXT, (3, 4), vocab_size=50)
    for ours, begun in zip(whole, hide(TEXT[:999], (3, 4), vocab_size=50)):
        np.testing.assert_array_equal(ours[:999], begun)
    assert not np.array_equal(whole[1], hide(TEXT, (3, 5), vocab_size=50)[1])
    batch = TEXT[:64].reshape(4, 16)
    parts = [hide(batch[i : i + 2], (3, 4), vocab_size=50, rows=(i, 4)) for i in (0, 2)]
    for ours, joined in zip(hide(batch, (3, 4), vocab_size=50), zip(*parts)):
        np.testing.assert_array_equal(ours, np.concatenate(joined))


def reader(**place):
    windows = WindowReader(TEXT, length=20, stride=20, batch_size=4, seed=1, **place)
    return MaskedReader(windows, seed=1, vocab_size=50)


def test_reader_starts_anywhere_and_shares_rows():
    steps = [batch for batch, _ in zip(reader().iterate(), range(4))]
    again = next(reader().iterate(3))
    shares = [next(reader(process_index=i, process_count=2).iterate(3)) for i in (0, 1)]
    for name, array in steps[3].items():
        np.testing.assert_array_equal(array, again[name])
        np.testing.assert_array_equal(array, np.concatenate([share[name] for share in shares]))
    assert not np.array_equal(steps[0]["weights"], steps[1]["weights"])
    assert steps[0]["inputs"].max() == 50 and steps[0]["targets"].max() < 50


@pytest.mark.parametrize(("context", "stride", "length"), [(32, 32, 1000), (32, 8, 1003), (64, 20, 50), (33, 32, 999)])
def test_every_gap_is_scored_once_with_context_around(context, stride, length):
    text = TEXT[:length]
    batches = list(masked_scoring_batches(text, "valid", vocab_size=50, context=context, stride=stride, batch_size=3))
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    scored = np.zeros(length, int)
    for window in range(len(joined["inputs"])):
        real, start = joined["padding_mask"][window], window * stride
        if real.any():
            np.testing.assert_array_equal(joined["targets"][window][real], text[start : start + context])
        for offset in np.flatnonzero(joined["weights"][window]):
            place = start + offset
            scored[place] += 1
            last = start + context >= length
            assert (
                min(offset if window else context, context if last else context - 1 - offset) >= (context - stride) // 2
            )
    split = next(masked_scoring_batches(text, "valid", vocab_size=50, context=length, stride=length, batch_size=1))
    np.testing.assert_array_equal(scored, split["weights"][0])
    other = next(masked_scoring_batches(text, "test", vocab_size=50, context=length, stride=length, batch_size=1))
    assert not np.array_equal(other["weights"], split["weights"])


def test_mistakes_are_named():
    with pytest.raises(UserError, match="stride=9 would skip"):
        masked_scoring_batches(TEXT, "test", vocab_size=50, context=8, stride=9, batch_size=1)
    with pytest.raises(UserError, match="without tokens"):
        masked_scoring_batches(TEXT[:0], "test", vocab_size=50, context=8, stride=8, batch_size=1)
