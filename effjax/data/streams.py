"""Contiguous streams of a text, for models that carry state from one batch to the next."""

from collections.abc import Iterator

import numpy as np

from effjax.data.pipeline import ENDLESS, check_at_least, cut_windows, prefetched, rows_per_process
from effjax.errors import UserError


class StreamReader:
    """Every row of the batch reads a stretch of its own, chunk after chunk, and starts again with the next epoch.

    With `chunks = (N - 1) // (batch_size * length)`, row `r` of the global batch of step `s` predicts the `length`
    tokens after position `offset + (r * chunks + s % chunks) * length`. Fewer than `batch_size * length` tokens are
    left over in an epoch; `offset`, drawn for each epoch, moves them and the borders between chunks about.

    Args:
      tokens: ids, `[N]`.
      length: targets per chunk.
      batch_size: rows of a global batch, that is streams.
      seed: of the offsets.
      process_index: this process, which reads its share of every batch.
      process_count: number of processes.
      documents: where the documents of the text begin, if batches are to keep them apart (`pipeline.apart`).

    Raises:
      UserError: a text too short to give every row a chunk, or a setting outside its range.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        *,
        length: int,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        documents: np.ndarray | None = None,
    ):
        check_at_least(1, length=length)
        check_at_least(0, seed=seed)
        rows = rows_per_process(batch_size, process_index, process_count)
        self.tokens, self.length, self.seed, self.documents = tokens, length, seed, documents
        self.stretches = np.arange(process_index * rows, (process_index + 1) * rows)
        self.chunks, self.slack = divmod(max(len(tokens) - 1, 0), batch_size * length)
        if not self.chunks:
            raise UserError(
                f"a text of {len(tokens)} tokens; batch_size={batch_size} streams of length={length} need "
                f"{batch_size * length + 1}"
            )

    def iterate(self, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """This process's rows of the batches of steps `start_step`, `start_step + 1`, ... without end.

        Returns:
          Iterator of `inputs` and `targets`, int32 `[batch_size / process_count, length]`, and `reset`, bool
          `[batch_size / process_count]`: the row starts a stretch, and what was carried to it is of no use.
        """
        import grain

        return prefetched(grain.MapDataset.range(ENDLESS).map(self.batch), start_step)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's rows of the batch of a step."""
        epoch, chunk = divmod(step, self.chunks)
        offset = np.random.default_rng((self.seed, epoch)).integers(self.slack + 1)
        starts = offset + (self.stretches * self.chunks + chunk) * self.length
        batch = cut_windows(self.tokens, starts, self.length, self.documents)
        return {**batch, "reset": np.full(len(starts), chunk == 0)}
