"""Shuffled windows: every window once per epoch, the same global batches on any number of processes, from any step."""

import itertools

import numpy as np
import pytest

from effjax.data import WindowReader
from effjax.errors import UserError

TOKENS = np.arange(60_000, dtype=np.uint16)  # a token is its own position


def read(steps, start=0, *, tokens=TOKENS, process_count=1, **settings):
    """Global batches, put together from those of every process."""
    settings = dict(length=50, stride=40, batch_size=8, seed=3) | settings
    shares = []
    for process_index in range(process_count):
        reader = WindowReader(tokens, process_index=process_index, process_count=process_count, **settings)
        shares.append(list(itertools.islice(reader.iterate(start), steps)))
    return [{name: np.concatenate([share[name] for share in step]) for name in step[0]} for step in zip(*shares)]


def same(left, right):
    return len(left) == len(right) and all(
        a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a) for a, b in zip(left, right)
    )


def test_batches_are_windows():
    for batch in read(5):
        assert batch["inputs"].shape == batch["targets"].shape == (8, 50)
        assert batch["inputs"].dtype == batch["targets"].dtype == np.int32
        starts = batch["inputs"][:, :1]
        assert np.all(starts % 40 == 0)
        np.testing.assert_array_equal(batch["inputs"], starts + np.arange(50))
        np.testing.assert_array_equal(batch["targets"], batch["inputs"] + 1)


@pytest.mark.parametrize("count,length,stride", [(100, 10, 10), (101, 10, 10), (111, 10, 3), (11, 10, 10), (12, 10, 1)])
def test_an_epoch_has_every_window_once(count, length, stride):
    windows = [start for start in range(0, count, stride) if start + length < count]
    settings = dict(tokens=TOKENS[:count], length=length, stride=stride, batch_size=1)
    starts = [batch["inputs"][0, 0].item() for batch in read(3 * len(windows), **settings)]
    epochs = [starts[: len(windows)], starts[len(windows) : 2 * len(windows)], starts[2 * len(windows) :]]
    assert all(sorted(epoch) == windows for epoch in epochs)
    if len(windows) > 5:
        assert epochs[0] != windows and epochs[0] != epochs[1] != epochs[2]


def test_processes_share_the_same_batches():
    alone = read(400)  # 1,499 windows: batches span the end of two epochs
    assert same(alone, read(400, process_count=2)) and same(alone, read(400, process_count=4))


@pytest.mark.parametrize("start", [1, 187, 188, 300])
def test_any_step_is_a_beginning(start):
    assert same(read(400)[start : start + 3], read(3, start, process_count=4))


def test_the_seed_is_the_order():
    first, again, other = read(187), read(187), read(187, seed=4)
    assert same(first, again) and not same(first, other)
    # Grain numbers epochs by adding to the seed; the next seed must not begin with this one's second epoch.
    second = [start for batch in read(375)[187:] for start in batch["inputs"][:, 0].tolist()][3:]
    assert [start for batch in other for start in batch["inputs"][:, 0].tolist()][:1000] != second[:1000]


def test_an_unfinished_iterator_does_not_hinder_another():
    reader = WindowReader(TOKENS, length=50, stride=50, batch_size=2, seed=0)
    first, second = reader.iterate(), reader.iterate()
    assert same([next(first) for _ in range(7)], [next(second) for _ in range(7)])


@pytest.mark.parametrize(
    "settings,message",
    [
        (dict(batch_size=6, process_count=4), "batch_size=6 is not a multiple of the 4 processes"),
        (dict(length=60_000, stride=1), "needs 60001"),
        (dict(stride=51), "stride=51 would skip"),
        (dict(length=0), "length=0"),
        (dict(stride=0), "stride=0"),
        (dict(seed=-1), "seed=-1"),
        (dict(tokens=TOKENS[:0]), "a text of 0 tokens"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        read(1, **settings)
    with pytest.raises(UserError, match="start_step=-1"):
        read(1, -1)
    with pytest.raises(UserError, match="process_index=2"):
        WindowReader(TOKENS, length=5, stride=5, batch_size=2, seed=0, process_index=2, process_count=2)
