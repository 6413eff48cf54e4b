"""The scorer's windows and streams, by brute force: every target once, with the context that was promised."""

import itertools

import numpy as np
import pytest

from effjax.data import scoring_batches, scoring_streams
from effjax.errors import UserError


def batches(tokens, process_count, **settings):
    """Global batches, put together from those of every process."""
    shares = [
        list(scoring_batches(tokens, process_index=index, process_count=process_count, **settings))
        for index in range(process_count)
    ]
    assert len({len(share) for share in shares}) == 1  # or the processes would wait for each other for ever
    return [{name: np.concatenate([share[name] for share in step]) for name in step[0]} for step in zip(*shares)]


CASES = [
    *itertools.product([2, 3, 9, 10, 11, 12, 40, 41, 67], [10], [1, 3, 10], [1, 4], [1, 2]),
    *itertools.product([2, 5], [1], [1], [2], [2]),
    (1000, 64, 16, 8, 4),
    (513, 512, 512, 2, 1),
    (514, 512, 512, 2, 1),
]


@pytest.mark.parametrize("count,context,stride,batch_size,processes", CASES)
def test_every_target_once_with_its_context(count, context, stride, batch_size, processes):
    if batch_size % processes:
        batch_size *= processes
    tokens = np.arange(count, dtype=np.uint16)  # a token is its own position
    times = np.zeros(count, int)
    for batch in batches(tokens, processes, context=context, stride=stride, batch_size=batch_size):
        assert list(batch) == ["inputs", "targets", "weights", "padding_mask"]
        assert all(array.shape == (batch_size, context) for array in batch.values())
        assert batch["inputs"].dtype == batch["targets"].dtype == np.int32
        assert batch["weights"].dtype == np.float32 and batch["padding_mask"].dtype == bool
        assert not np.any(batch["weights"][~batch["padding_mask"]])
        for inputs, targets, weights, real in zip(
            *(batch[k] for k in ("inputs", "targets", "weights", "padding_mask"))
        ):
            length = int(real.sum())
            assert real[:length].all()
            np.testing.assert_array_equal(targets[:length], inputs[:length] + 1)
            np.testing.assert_array_equal(np.diff(inputs[:length]), 1)
            for position in np.flatnonzero(weights):
                target = int(targets[position])
                assert weights[position] == 1
                times[target] += 1
                assert position + 1 >= min(target, context - stride + 1)  # tokens before it, inside the window
    np.testing.assert_array_equal(times, [0] + [1] * (count - 1))


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_score(count):
    with pytest.raises(UserError, match=f"a text of {count} tokens has no target"):
        scoring_batches(np.zeros(count, np.uint8), context=4, stride=4, batch_size=1)


@pytest.mark.parametrize(
    "settings,message",
    [
        (dict(stride=5), "stride=5 would skip targets"),
        (dict(stride=0), "stride=0"),
        (dict(context=0), "context=0"),
        (dict(batch_size=0), "batch_size=0"),
        (dict(batch_size=3, process_count=2), "batch_size=3 is not a multiple"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        scoring_batches(np.zeros(9, np.uint8), **dict(context=4, stride=4, batch_size=2) | settings)


STREAMS = [(2, 3, 1, 1, 1), (2, 3, 2, 2, 2), (40, 3, 4, 4, 2), (41, 5, 3, 4, 2), (12, 50, 5, 8, 4), (7, 1, 6, 6, 1)]


@pytest.mark.parametrize("count,length,streams,batch_size,processes", STREAMS)
def test_streams_read_every_target_once_in_order(count, length, streams, batch_size, processes):
    tokens = np.arange(count, dtype=np.uint16)
    settings = dict(length=length, streams=streams, batch_size=batch_size, process_count=processes)
    shares = [list(scoring_streams(tokens, process_index=index, **settings)) for index in range(processes)]
    steps = [{name: np.concatenate([share[name] for share in step]) for name in step[0]} for step in zip(*shares)]
    whole = {name: np.concatenate([step[name] for step in steps], axis=1) for name in steps[0]}
    assert whole["inputs"].shape[0] == batch_size and whole["inputs"].shape[1] < -(-(count - 1) // streams) + length
    np.testing.assert_array_equal(whole["weights"] > 0, whole["padding_mask"])
    read = []
    for inputs, targets, real in zip(*(whole[name] for name in ("inputs", "targets", "padding_mask"))):
        assert real[: real.sum()].all()  # padding only at the end: it stands between no two tokens of a stream
        np.testing.assert_array_equal(targets[real], inputs[real] + 1)
        read.extend(targets[real])
    np.testing.assert_array_equal(read, np.arange(1, count))


def test_streams_need_a_row_each():
    with pytest.raises(UserError, match="batch_size=3"):
        scoring_streams(np.arange(9), length=2, streams=4, batch_size=3)
