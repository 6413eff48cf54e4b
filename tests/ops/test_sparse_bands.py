"""Bands hold the pairs that the lists of blocks hold, from both sides, and hardly more."""

import itertools

import numpy as np
import pytest

from effjax.ops.patterns import Causal, Fixed, GlobalTokens, PerHead, SlidingWindow, Strided
from effjax.ops.sparse_bands import MASK_PAIRS
from effjax.ops.sparse_plan import plan

WINDOW = Causal() & SlidingWindow(127)
PATTERNS = {
    "window": (WINDOW, [True]),
    "both sides": (SlidingWindow(70), [True]),
    "dilated": (Causal() & SlidingWindow(60, 3), [True]),
    "strided": (Strided(32), [True, True]),
    "fixed": (Fixed(64, 16), [True, False]),  # the summaries of all that came before are no band
    "globals": (Causal() & (SlidingWindow(64) | GlobalTokens((0,))), [False]),
    "per head": (PerHead((SlidingWindow(64), SlidingWindow(100))), [True, True]),
    "causal": (Causal(), [False]),
}


def pairs(part, blocks, masks, own, other):
    """bool [layouts, slots of one axis, slots of the other] of `(layout, i, first j, mask)`s; None stands for all."""
    layouts = part.by_query.start.shape[0]
    seen = np.zeros((layouts, own.count * own.block, other.count * other.block), bool)
    for layout, i, j, mask in blocks:
        square = np.ones((own.block, other.block), bool) if mask is None else masks[mask]
        seen[layout, i * own.block :, j * other.block :][: own.block, : square.shape[1]] |= square
    return seen


def in_lists(lists):
    for layout, starts in enumerate(lists.start):
        for i, (start, end) in enumerate(itertools.pairwise(starts)):
            for e in range(start, end):
                yield layout, i, lists.index[e], None if e < lists.middle[layout, i] else lists.mask[e]


def in_band(band):
    for layout, starts in enumerate(band.start):
        for i, start in enumerate(starts):
            yield layout, i, start, band.mask[layout, i]


@pytest.mark.parametrize("length", [1000, 1024])
@pytest.mark.parametrize("name", PATTERNS)
def test_a_band_is_the_blocks_that_it_replaces(name, length):
    pattern, expected = PATTERNS[name]
    parts = [part for group in plan(pattern, 2, length, length, 0).groups for part in group.parts]
    assert [part.query_band is not None for part in parts] == expected
    assert [part.key_band is not None for part in parts] == expected
    for part in parts:
        for band, lists, masks, own, other in (
            (part.query_band, part.by_query, part.masks, part.queries, part.keys),
            (part.key_band, part.by_key, part.masks.swapaxes(1, 2), part.keys, part.queries),
        ):
            if band is not None:
                ours = pairs(part, in_band(band), band.masks, own, other)
                there = own.there.ravel()[:, None] & other.there.ravel()
                assert (ours & there == pairs(part, in_lists(lists), masks, own, other) & there).all()


def test_a_band_grows_with_the_window_and_its_masks_not_with_the_length():
    (short,), (long,) = (plan(WINDOW, 1, length, length, 0).groups[0].parts for length in (2**10, 2**14))
    assert short.query_band.width == long.query_band.width
    assert short.query_band.masks.size == long.query_band.masks.size < MASK_PAIRS
