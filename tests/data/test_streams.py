"""Contiguous streams: each row goes on where it stopped, the same on any number of processes and from any step."""

import itertools

import numpy as np
import pytest

from effjax.data import StreamReader
from effjax.errors import UserError

TOKENS = np.arange(1003, dtype=np.uint16)  # a token is its own position
CHUNKS = 1002 // (4 * 30)


def read(steps, start=0, *, tokens=TOKENS, process_count=1, **settings):
    """Global batches, put together from those of every process."""
    settings = dict(length=30, batch_size=4, seed=3) | settings
    shares = []
    for process_index in range(process_count):
        reader = StreamReader(tokens, process_index=process_index, process_count=process_count, **settings)
        shares.append(list(itertools.islice(reader.iterate(start), steps)))
    return [{name: np.concatenate([share[name] for share in step]) for name in step[0]} for step in zip(*shares)]


def same(left, right):
    return len(left) == len(right) and all(np.array_equal(a[name], b[name]) for a, b in zip(left, right) for name in a)


def test_rows_go_on_where_they_stopped():
    batches = read(3 * CHUNKS)
    for step, batch in enumerate(batches):
        assert batch["inputs"].dtype == batch["targets"].dtype == np.int32 and batch["reset"].dtype == bool
        np.testing.assert_array_equal(batch["targets"], batch["inputs"] + 1)
        np.testing.assert_array_equal(np.diff(batch["inputs"]), 1)
        np.testing.assert_array_equal(batch["reset"], np.full(4, step % CHUNKS == 0))
        if step % CHUNKS:
            np.testing.assert_array_equal(batch["inputs"][:, 0], batches[step - 1]["targets"][:, -1])


def test_an_epoch_reads_no_target_twice_and_leaves_less_than_a_batch():
    batches = read(40 * CHUNKS)
    firsts = []
    for epoch in range(40):
        targets = np.concatenate([batch["targets"] for batch in batches[epoch * CHUNKS : (epoch + 1) * CHUNKS]], axis=1)
        flat = targets.ravel()  # row after row: the stretches lie side by side
        np.testing.assert_array_equal(flat, flat[0] + np.arange(flat.size))
        assert flat[0] >= 1 and flat[-1] <= 1002 and 1002 - flat.size < 4 * 30
        firsts.append(flat[0])
    assert len(set(firsts)) > 10  # what is left over differs between epochs


def test_a_text_that_fits_exactly():
    batches = read(4, tokens=TOKENS[:241])
    np.testing.assert_array_equal(
        np.concatenate([b["targets"] for b in batches[:2]], axis=1).ravel(), np.arange(1, 241)
    )
    assert same(batches[:2], batches[2:])


def test_processes_share_the_same_batches():
    alone = read(50)
    assert same(alone, read(50, process_count=2)) and same(alone, read(50, process_count=4))
    assert not same(alone, read(50, seed=4))


@pytest.mark.parametrize("start", [1, CHUNKS, 20, 10**12])
def test_any_step_is_a_beginning(start):
    if start < 100:
        assert same(read(40)[start : start + 3], read(3, start, process_count=2))
    else:
        assert same(read(3, start), read(4, start - 1)[1:])


@pytest.mark.parametrize(
    "settings,message",
    [
        (dict(batch_size=6, process_count=4), "batch_size=6 is not a multiple of the 4 processes"),
        (dict(tokens=TOKENS[:120]), "a text of 120 tokens; batch_size=4 streams of length=30 need 121"),
        (dict(tokens=TOKENS[:0]), "a text of 0 tokens"),
        (dict(length=0), "length=0"),
        (dict(seed=-1), "seed=-1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        read(1, **settings)
