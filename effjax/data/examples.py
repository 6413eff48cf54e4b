"""Shuffled examples of a finite set, and all of them in order, for tasks of documents, series or sentences."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from effjax.data.pipeline import ENDLESS, check_at_least, prefetched, rows_per_process
from effjax.errors import UserError


class Examples(Protocol):
    """A finite set of examples that become batches of one shape."""

    def __len__(self) -> int:
        """How many there are."""

    def batch(self, indices: np.ndarray, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        """The examples at `indices`, `[b]`, as arrays whose first axis is `b` and whose shapes do not depend on them.

        `rng` draws what is random about a training batch (crops, trajectories' starts); None in scoring.
        """


class ExampleReader:
    """Reads every example once per epoch, in an order drawn anew for each epoch.

    Row `r` of the global batch of step `s` is example `s * batch_size + r` of an endless sequence of epochs, so a batch
    may span two of them. What is random about a batch depends on the seed, the step and the process alone.

    Args:
      examples: what to read.
      batch_size: examples per global batch.
      seed: of the order.
      process_index: this process, which reads its share of every batch.
      process_count: number of processes.

    Raises:
      UserError: no examples, or a setting outside its range.
    """

    def __init__(
        self, examples: Examples, *, batch_size: int, seed: int, process_index: int = 0, process_count: int = 1
    ):
        check_at_least(0, seed=seed)
        if not len(examples):
            raise UserError("there are no examples to train on")
        self.examples, self.seed = examples, seed
        self.rows = rows_per_process(batch_size, process_index, process_count)
        self.process_index, self.process_count = process_index, process_count

    def iterate(self, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """This process's rows of the batches of steps `start_step`, `start_step + 1`, … without end."""
        import grain

        # Hashed, because Grain adds the epoch to the seed: neighbouring seeds would share their orders.
        seed = int(np.random.SeedSequence(self.seed).generate_state(1)[0])
        n = len(self.examples)
        order = grain.MapDataset.range(n).shuffle(seed).repeat(-(-ENDLESS // n))
        shares = order.batch(self.rows)[self.process_index :: self.process_count]

        def read(step: int, indices: np.ndarray) -> dict[str, np.ndarray]:
            return self.examples.batch(indices, np.random.default_rng((self.seed, step, self.process_index)))

        return prefetched(shares.map_with_index(read), start_step)


def scoring_examples(
    examples: Examples,
    *,
    batch_size: int,
    limit: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Every example once and in order; `example_weights` `[b]`, float32, are 0 in rows that fill up the last batch.

    Args:
      examples: what to score.
      batch_size: rows of a global batch.
      limit: only the first so many; None or 0: all.
      process_index: this process, which reads its share of every batch.
      process_count: number of processes; all get the same number of batches.

    Raises:
      UserError: no examples, or a setting outside its range.
    """
    import grain

    n = min(limit or len(examples), len(examples))
    if not n:
        raise UserError("there are no examples to score")
    rows = rows_per_process(batch_size, process_index, process_count)

    def read(batch: int) -> dict[str, np.ndarray]:
        indices = batch * batch_size + process_index * rows + np.arange(rows)
        weights = (indices < n).astype(np.float32)
        return examples.batch(np.minimum(indices, n - 1), None) | {"example_weights": weights}

    return prefetched(grain.MapDataset.range(-(-n // batch_size)).map(read))
