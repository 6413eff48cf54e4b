"""Windows or streams that score every token of a text once: with a guaranteed amount of context, or with a state."""

from collections.abc import Iterator

import numpy as np

from effjax.data.pipeline import apart, check_at_least, prefetched, rows_per_process
from effjax.errors import UserError


def scoring_batches(
    tokens: np.ndarray,
    *,
    context: int,
    stride: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    documents: np.ndarray | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches whose weighted targets are the tokens 1 to N-1 of a text, each exactly once.

    Window `w` reads tokens `[w * stride, w * stride + context)`. The first one scores all its targets, every other one
    its last `stride`, which have at least `context - stride` tokens before them inside the window. Token 0 has nothing
    before it and is never scored: N - 1 targets. What lies beyond the end of the text, and whole rows that fill up the
    last batch, is padding of weight 0.

    Args:
      tokens: ids, `[N]`, at least two.
      context: length of a window.
      stride: targets that each window after the first one adds, at most `context`.
      batch_size: windows per global batch.
      process_index: this process, which reads its share of every batch.
      process_count: number of processes; all get the same number of batches.
      documents: where the documents of the text begin, if they are to be kept apart: the first token of each has then
        nothing before it and is not scored, and batches have `segment_ids`.

    Returns:
      Iterator of dicts of arrays `[batch_size / process_count, context]`: `inputs` and `targets` int32, `weights`
      float32, 1 where the target is scored, `padding_mask` bool, True where there is a target.

    Raises:
      UserError: fewer than two tokens, or a setting outside its range.

    Source: Child et al. 2019, section 7 (minimum context); protocols differ only in `context` and `stride`.
    """
    import grain

    check_at_least(1, context=context, stride=stride)
    if stride > context:
        raise UserError(f"stride={stride} would skip targets; at most context={context} is allowed")
    check_has_target(tokens)
    rows = rows_per_process(batch_size, process_index, process_count)
    last = len(tokens) - 1
    windows = 1 + max(0, -(-(last - context) // stride))
    batches = -(-windows // batch_size)

    def cut(batch: int) -> dict[str, np.ndarray]:
        window = batch * batch_size + process_index * rows + np.arange(rows)[:, None]
        position = window * stride + np.arange(context)
        real = (position < last) & (window < windows)
        scored = real & ((window == 0) | (np.arange(context) >= context - stride))
        return scored_rows(tokens, position, real, scored, documents)

    return prefetched(grain.MapDataset.range(batches).map(cut))


def scoring_streams(
    tokens: np.ndarray,
    *,
    length: int,
    streams: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    documents: np.ndarray | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches that go through a text in parallel streams, for models that carry state from batch to batch.

    The targets are cut into `streams` stretches of equal length (the last ones may be shorter), and row `r` reads the
    stretch `r`, `length` targets a batch. All are scored, those at the start of a stretch with little before them.

    Args:
      tokens: ids, `[N]`, at least two.
      length: targets per row and batch.
      streams: stretches that are read side by side.
      batch_size: rows of a global batch, at least `streams`; the others are padding.
      process_index, process_count, documents: as in `scoring_batches`.

    Returns:
      Iterator of dicts as those of `scoring_batches`, `[batch_size / process_count, length]`.

    Raises:
      UserError: as `scoring_batches`.

    Source: Dai et al. 2019 (1901.02860), evaluation in its code.
    """
    import grain

    check_at_least(1, length=length, streams=streams)
    check_at_least(streams, batch_size=batch_size)
    check_has_target(tokens)
    rows = rows_per_process(batch_size, process_index, process_count)
    last = len(tokens) - 1
    stretch = -(-last // streams)
    start = (process_index * rows + np.arange(rows)[:, None]) * stretch

    def cut(batch: int) -> dict[str, np.ndarray]:
        along = batch * length + np.arange(length)
        position = start + along
        real = (along < stretch) & (position < last)
        return scored_rows(tokens, position, real, real, documents)

    return prefetched(grain.MapDataset.range(-(-stretch // length)).map(cut))


def check_has_target(tokens: np.ndarray) -> None:
    """Raises UserError for a text in which no token has one before it."""
    if len(tokens) < 2:
        raise UserError(f"a text of {len(tokens)} tokens has no target to score; at least 2 tokens are needed")


def scored_rows(
    tokens: np.ndarray, position: np.ndarray, real: np.ndarray, scored: np.ndarray, documents: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """A batch whose inputs stand at the positions; padding repeats the last token or target, as any id would do."""
    last = len(tokens) - 1
    batch = {
        "inputs": tokens[np.minimum(position, last)].astype(np.int32),
        "targets": tokens[np.minimum(position + 1, last)].astype(np.int32),
        "weights": scored.astype(np.float32),
        "padding_mask": real,
    }
    if documents is None:
        return batch
    rules = apart(documents, np.minimum(position, last))
    return batch | rules | {"weights": batch["weights"] * rules["weights"]}
