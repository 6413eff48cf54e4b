"""Bands: where the blocks that each block visits stand next to each other, all of them at once instead of a loop."""

from typing import NamedTuple

import numpy as np

from effjax.ops.sparse_layout import Lists

BAND_PAIRS = 2**16  # of a block and its band: a loop over the blocks of a wider one loses nothing
WASTE = 9 / 8  # blocks of a band over those of them that are visited; the steps of a loop cost more than this
MASK_PAIRS = 2**22  # of all masks together


class Band(NamedTuple):
    """For every block of one axis, a band of `width` blocks of the other: block start[i] and those after it, under
    masks[mask[i]]; start and mask are int32 [layouts, blocks]."""

    start: np.ndarray
    mask: np.ndarray
    masks: np.ndarray  # bool [distinct masks, slots of a block, slots of a band]
    width: int

    @property
    def own(self) -> bool:
        """Whether every block visits the block of its number and no other."""
        return self.width == 1 and bool((self.start == np.arange(self.start.shape[1])).all())


def band(lists: Lists, masks: np.ndarray, others: int) -> Band | None:
    """The visits of `lists` as bands, None where these would hold much else.

    Args:
      lists: the visits, of several layouts: start is `[layouts, blocks + 1]`.
      masks: bool `[distinct masks, slots of a block, slots of a block of the other axis]`.
      others: number of blocks of the other axis.
    """
    shape, pairs = lists.middle.shape, masks.shape[1] * masks.shape[2]
    visits = (lists.start[:, 1:] - lists.start[:, :-1]).ravel()
    row = np.repeat(np.arange(visits.size), visits)  # of each visit
    first, last = np.full(visits.size, others), np.full(visits.size, -1)
    np.minimum.at(first, row, lists.index)
    np.maximum.at(last, row, lists.index)
    width = int((last - first).max()) + 1
    if width * pairs > BAND_PAIRS or visits.size * width > WASTE * visits.sum():
        return None
    start = np.minimum(first, others - width)
    # Kinds of blocks: 0 is not visited, 1 visited without a mask, 2 + m under mask m.
    kinds = np.zeros((visits.size, width), int)
    unmasked = np.arange(lists.index.size) < lists.middle.ravel()[row]
    kinds[row, lists.index - start[row]] = np.where(unmasked, 1, 2 + lists.mask)
    kinds, mask = np.unique(kinds, axis=0, return_inverse=True)
    if kinds.size * pairs > MASK_PAIRS:
        return None
    whole = np.ones((1, *masks.shape[1:]), bool)
    wide = np.concatenate([~whole, whole, masks])[kinds].swapaxes(1, 2)
    wide = wide.reshape(len(kinds), masks.shape[1], width * masks.shape[2])
    return Band(start.reshape(shape).astype(np.int32), mask.reshape(shape).astype(np.int32), wide, width)
