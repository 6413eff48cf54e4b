import numpy as np
import pytest

from effjax.data.examples import ExampleReader, scoring_examples
from effjax.errors import UserError


class Squares:
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def batch(self, indices, rng):
        noise = np.zeros(len(indices)) if rng is None else rng.random(len(indices))
        return {"inputs": indices**2, "noise": noise}


def first_batches(reader, n, start=0):
    batches = reader.iterate(start)
    return [next(batches) for _ in range(n)]


def test_every_example_once_an_epoch_in_another_order():
    batches = first_batches(ExampleReader(Squares(12), batch_size=4, seed=0), 6)
    epochs = [np.concatenate([batch["inputs"] for batch in batches[i : i + 3]]) for i in (0, 3)]
    for epoch in epochs:
        assert sorted(epoch) == [i**2 for i in range(12)]
    assert list(epochs[0]) != list(epochs[1])


def test_goes_on_from_any_step_and_draws_the_same():
    reader = ExampleReader(Squares(7), batch_size=4, seed=3)
    whole, rest = first_batches(reader, 5), first_batches(reader, 3, start=2)
    for a, b in zip(whole[2:], rest, strict=True):
        np.testing.assert_array_equal(a["inputs"], b["inputs"])
        np.testing.assert_array_equal(a["noise"], b["noise"])


def test_two_processes_share_what_one_reads():
    one = first_batches(ExampleReader(Squares(10), batch_size=4, seed=1), 4)
    two = [
        first_batches(ExampleReader(Squares(10), batch_size=4, seed=1, process_index=i, process_count=2), 4)
        for i in range(2)
    ]
    for step in range(4):
        both = np.concatenate([share[step]["inputs"] for share in two])
        np.testing.assert_array_equal(both, one[step]["inputs"])


@pytest.mark.parametrize("limit", [None, 5])
def test_scores_every_example_once(limit):
    shares = [
        list(scoring_examples(Squares(11), batch_size=4, limit=limit, process_index=i, process_count=2))
        for i in range(2)
    ]
    assert len(shares[0]) == len(shares[1])
    scored = [batch["inputs"][batch["example_weights"] > 0] for share in shares for batch in share]
    assert sorted(np.concatenate(scored)) == [i**2 for i in range(limit or 11)]


def test_no_examples_is_an_error():
    with pytest.raises(UserError, match="no examples to train on"):
        ExampleReader(Squares(0), batch_size=1, seed=0)
    with pytest.raises(UserError, match="no examples to score"):
        next(scoring_examples(Squares(0), batch_size=1))
