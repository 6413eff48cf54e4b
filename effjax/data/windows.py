"""Shuffled windows of a text: independent training examples for models that carry nothing between batches."""

from collections.abc import Iterator

import numpy as np

from effjax.data.pipeline import ENDLESS, check_at_least, cut_windows, prefetched, rows_per_process
from effjax.errors import UserError


class WindowReader:
    """Reads every window of a text once per epoch, in an order drawn anew for each epoch.

    Window `w` predicts tokens `[w * stride + 1, w * stride + length]`. Row `r` of the global batch of step `s` is
    example `s * batch_size + r` of an endless sequence of epochs, so a batch may span two of them. The tokens after the
    last whole window, fewer than `stride`, are not read.

    Args:
      tokens: ids, `[N]`.
      length: targets per window.
      stride: tokens between the starts of neighbouring windows, at most `length`.
      batch_size: windows per global batch.
      seed: of the order.
      process_index: this process, which reads its share of every batch.
      process_count: number of processes.
      documents: where the documents of the text begin, if batches are to keep them apart (`pipeline.apart`).

    Raises:
      UserError: a text shorter than one window, or a setting outside its range.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        *,
        length: int,
        stride: int,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        documents: np.ndarray | None = None,
    ):
        check_at_least(1, length=length, stride=stride)
        check_at_least(0, seed=seed)
        if stride > length:
            raise UserError(f"stride={stride} would skip tokens; at most length={length} is allowed")
        if len(tokens) <= length:
            raise UserError(f"a text of {len(tokens)} tokens; a window of length={length} needs {length + 1}")
        self.tokens, self.length, self.stride, self.seed = tokens, length, stride, seed
        self.documents = documents
        self.rows = rows_per_process(batch_size, process_index, process_count)
        self.process_index, self.process_count = process_index, process_count
        self.windows = 1 + (len(tokens) - 1 - length) // stride

    def iterate(self, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """This process's rows of the batches of steps `start_step`, `start_step + 1`, ... without end.

        Returns:
          Iterator of `inputs` and `targets`, int32 `[batch_size / process_count, length]`.
        """
        import grain

        # Hashed, because Grain adds the epoch to the seed: neighbouring seeds would share their orders.
        seed = int(np.random.SeedSequence(self.seed).generate_state(1)[0])
        order = grain.MapDataset.range(self.windows).shuffle(seed).repeat(-(-ENDLESS // self.windows))
        shares = order.batch(self.rows)[self.process_index :: self.process_count]
        return prefetched(shares.map(self.cut), start_step)

    def cut(self, windows: np.ndarray) -> dict[str, np.ndarray]:
        """The batch of the given windows."""
        return cut_windows(self.tokens, windows * self.stride, self.length, self.documents)
