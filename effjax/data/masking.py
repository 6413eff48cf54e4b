"""Gaps in a text for a model to fill: which tokens are hidden, and by what, as a function of seed and place alone."""

import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from effjax.data.pipeline import check_at_least, prefetched, rows_per_process
from effjax.data.windows import WindowReader
from effjax.errors import UserError

HIDDEN = 0.15  # of all tokens are to be predicted; of these
MASKED, REPLACED = 0.8, 0.1  # stand as the mask, or as any token; the rest as they are
SPLIT_SEED = 20_180_410  # of the gaps that scores are taken over


def hide(
    tokens: np.ndarray, seed: Sequence[int], *, vocab_size: int, rows: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the gaps of a batch or of a whole text.

    Args:
      tokens: ids, `[b, T]` or `[N]`. The gaps of the first tokens of a text do not depend on how long it is.
      seed: non-negative integers.
      vocab_size: number of ids; the mask is the next one.
      rows: `(first, of)`: the tokens are rows `first`, `first + 1`, … of a batch of `of` rows, whose gaps they get.

    Returns:
      int32 ids with the gaps, and float32 weights, 1 where a token is to be predicted.

    Source: Devlin et al. 2019 (1810.04805), section 3.1: 15 %; of these 80 % masked, 10 % random, 10 % kept.
    """
    first, of = rows or (0, len(tokens))
    shape, own = (of, *tokens.shape[1:]), slice(first, first + len(tokens))
    where, how, what = (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(3))
    hidden = where.random(shape, np.float32)[own] < HIDDEN
    fate = how.random(shape, np.float32)[own]
    random = what.integers(0, vocab_size, shape, np.int32)[own]
    gap = np.where(fate < MASKED, vocab_size, np.where(fate < MASKED + REPLACED, random, tokens))
    return np.where(hidden, gap, tokens).astype(np.int32), hidden.astype(np.float32)


class MaskedReader:
    """Windows of a text with gaps, drawn anew for every step.

    Args:
      windows: the reader of the windows.
      seed: of the gaps.
      vocab_size: number of ids; the mask is the next one.
    """

    def __init__(self, windows: WindowReader, *, seed: int, vocab_size: int):
        self.windows, self.seed, self.vocab_size = windows, seed, vocab_size

    def iterate(self, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """This process's rows of the batches of steps `start_step`, `start_step + 1`, ... without end.

        Returns:
          Iterator of `inputs` (with gaps) and `targets`, int32, and `weights`, float32, 1 where there is something to
          predict, `[batch_size / process_count, length]`.
        """
        rows, count = self.windows.rows, self.windows.process_count
        place = (self.windows.process_index * rows, rows * count)
        for step, batch in enumerate(self.windows.iterate(start_step), start=start_step):
            text = batch["targets"]
            inputs, weights = hide(text, (self.seed, step), vocab_size=self.vocab_size, rows=place)
            yield {"inputs": inputs, "targets": text, "weights": weights}


def masked_scoring_batches(
    tokens: np.ndarray,
    split: str,
    *,
    vocab_size: int,
    context: int,
    stride: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches whose weighted targets are the gaps of a split, always the same ones, each exactly once.

    Window `w` reads tokens `[w * stride, w * stride + context)` and scores the `stride` in its middle, the first and
    the last one also those at their outer ends: away from the ends of the text every target has at least
    `(context - stride) // 2` tokens on either side.

    Args:
      tokens: ids, `[N]`, the beginning of the split or all of it.
      split: its name, which decides on the gaps.
      vocab_size: number of ids; the mask is the next one.
      context: length of a window.
      stride: tokens between the starts of two windows, at most `context`.
      batch_size: windows per global batch.
      process_index: this process, which reads its share of every batch.
      process_count: number of processes; all get the same number of batches.

    Returns:
      Iterator of dicts of arrays `[batch_size / process_count, context]`: `inputs` and `targets` int32, `weights`
      float32, 1 where the target is scored, `padding_mask` bool, True where there is a token.

    Raises:
      UserError: no tokens, or a setting outside its range.
    """
    import grain

    check_at_least(1, context=context, stride=stride)
    if stride > context:
        raise UserError(f"stride={stride} would skip targets; at most context={context} is allowed")
    if not len(tokens):
        raise UserError("a text without tokens has no target to score")
    rows = rows_per_process(batch_size, process_index, process_count)
    inputs, hidden = hide(tokens, (SPLIT_SEED, zlib.crc32(split.encode())), vocab_size=vocab_size)
    windows = 1 + max(0, -(-(len(tokens) - context) // stride))
    before = (context - stride) // 2

    def cut(batch: int) -> dict[str, np.ndarray]:
        window = batch * batch_size + process_index * rows + np.arange(rows)[:, None]
        offset = np.arange(context)
        position = window * stride + offset
        real = (position < len(tokens)) & (window < windows)
        middle = ((offset >= before) | (window == 0)) & ((offset < before + stride) | (window == windows - 1))
        place = np.minimum(position, len(tokens) - 1)  # padding repeats the last token: any id would do
        return {
            "inputs": inputs[place],
            "targets": tokens[place].astype(np.int32),
            "weights": np.where(real & middle, hidden[place], 0).astype(np.float32),
            "padding_mask": real,
        }

    return prefetched(grain.MapDataset.range(-(-windows // batch_size)).map(cut))
