"""What the readers share: this process's rows of every global batch, windows cut from a text, prefetch by Grain.

A position in the data is the index of a global batch. Which process reads which rows follows from its index, so any
number of processes that divides the batch reads the same global batches from any step on, and a reader has no state of
its own to save.
"""

from collections.abc import Iterator

import numpy as np

from effjax.errors import UserError

PREFETCH_THREADS = 2
PREFETCH_BATCHES = 4
ENDLESS = 2**50  # batches or examples; Grain reckons lengths in floating point, which sys.maxsize would overflow


def check_at_least(least: int, **values: int):
    """Raises `UserError` unless every keyword is an integer of at least `least`."""
    for name, value in values.items():
        if value != int(value) or value < least:
            raise UserError(f"{name}={value}; an integer of at least {least} is needed")


def rows_per_process(batch_size: int, process_index: int, process_count: int) -> int:
    """Rows of a global batch that one process reads: `[process_index * rows, (process_index + 1) * rows)`.

    Raises:
      UserError: processes that do not share the batch evenly.
    """
    check_at_least(1, batch_size=batch_size, process_count=process_count)
    if not 0 <= process_index < process_count:
        raise UserError(f"process_index={process_index}; [0, {process_count}) is allowed")
    if batch_size % process_count:
        raise UserError(f"batch_size={batch_size} is not a multiple of the {process_count} processes")
    return batch_size // process_count


def cut_windows(
    tokens: np.ndarray, starts: np.ndarray, length: int, documents: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """`inputs` and `targets` of windows of a text: the targets are the inputs one token later.

    Args:
      tokens: ids, `[N]`.
      starts: first input of each window, `[b]`, at most `N - length - 1`.
      length: targets per window.
      documents: where the documents of a text begin, if they are to be kept apart.

    Returns:
      int32 arrays `[b, length]`; with `documents` those of `apart` too.
    """
    windows = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[starts]
    batch = {"inputs": windows[:, :-1].astype(np.int32), "targets": windows[:, 1:].astype(np.int32)}
    return batch if documents is None else batch | apart(documents, starts[:, None] + np.arange(length))


def apart(documents: np.ndarray, position: np.ndarray) -> dict[str, np.ndarray]:
    """What keeps documents apart: the first token of one is no target of the one before.

    Args:
      documents: positions at which documents begin, in order, the first of them 0.
      position: of each input in the text, `[b, T]`; its target is the next one.

    Returns:
      `segment_ids`, int32, the number of each input's document; `weights`, float32, 0 where the target is another's.
    """
    document = np.searchsorted(documents, position, side="right") - 1
    ahead = np.searchsorted(documents, position + 1, side="right") - 1
    return {"segment_ids": document.astype(np.int32), "weights": (document == ahead).astype(np.float32)}


def prefetched(batches, start: int = 0) -> Iterator:
    """Iterates a Grain `MapDataset` from element `start` on, a few elements ahead of its reader, in threads."""
    import grain

    check_at_least(0, start_step=start)
    options = grain.ReadOptions(num_threads=PREFETCH_THREADS, prefetch_buffer_size=PREFETCH_BATCHES)
    return iter(batches[start:].to_iter_dataset(options))
