"""Key blocks drawn at random for every block of queries, by counting: the same whatever the length of the sequence."""

from dataclasses import dataclass
from functools import reduce
from operator import or_

import numpy as np

from effjax.ops.pattern_algebra import Pattern, at_least


@dataclass(frozen=True)
class RandomBlocks(Pattern):
    """Every block of queries sees `count` different blocks of keys, drawn alike from all that it may draw from.

    The draws are a hash of (seed, head, block of queries), so that pieces of a sequence, and sequences of any length,
    find the same ones.

    Attributes:
      block: positions of a block.
      count: blocks drawn; all of them where there are fewer.
      among: draws come from the first `among` blocks, of which a shorter sequence has fewer; None: from the past.
      first: draws leave out the first blocks, so many.
      gap: draws leave out the blocks up to so many away from the query's own, and always its own.
      seed: another number, other draws.
    """

    block: int
    count: int
    among: int | None = None
    first: int = 0
    gap: int = 0
    seed: int = 0

    def __post_init__(self):
        at_least(1, block=self.block, count=self.count)
        at_least(0, first=self.first, gap=self.gap, seed=self.seed)
        if self.among is not None and self.among <= self.first:
            raise ValueError(f"among is {self.among}: it must be None or more than first = {self.first}")

    def allows(self, query, key, head):
        block = key // self.block
        return reduce(or_, [drawn == block for drawn in self.draws(query // self.block, head)])

    def bounds(self, query, key, head):
        q_first, q_last, k_first, k_last = (x // self.block for x in (query.first, query.last, key.first, key.last))
        some, every = np.False_, np.True_
        for step in range(int(np.max(q_last - q_first)) + 1):
            drawn = self.draws(np.minimum(q_first + step, q_last), head)
            hits = sum((one >= k_first) & (one <= k_last) for one in drawn)
            some, every = some | (hits > 0), every & (hits == k_last - k_first + 1)
        return some, every

    def draws(self, block, head):
        """`count` arrays: the blocks that each block of queries draws, -1 where there are none left.

        Floyd's method: the t-th draw is one of the first `choices - count + t + 1`, or their last if already taken.
        """
        before = block - self.gap - self.first
        before = before * (before > 0)
        choices, skipped = before, 0 * block
        if self.among is not None:
            room = self.among - self.first
            before = before + (room - before) * (before > room)
            after = self.among - 1 - (block + self.gap)
            after = after * (after > 0)
            after = after + (room - after) * (after > room)
            choices = before + after
            skipped = room - choices
        chosen = []
        for turn in range(self.count):
            top = choices - self.count + turn
            valid = top >= 0
            draw = _hash(self.seed, head, block, turn) % _unsigned(top * valid + 1)
            draw = draw.astype(block.dtype) * valid - (~valid)
            taken = reduce(or_, [draw == other for other in chosen], draw != draw) & valid
            chosen.append(draw + (top - draw) * taken)
        place = lambda draw: draw + (draw >= 0) * self.first + (draw >= before) * skipped
        return [place(draw) for draw in chosen]


def _unsigned(x):
    return x.astype(np.uint32) if hasattr(x, "astype") else np.asarray(x).astype(np.uint32)


def _hash(*words):
    """32 well mixed bits of a few integers: MurmurHash3 (x86, 32 bits; public domain)."""
    with np.errstate(over="ignore"):  # on numpy scalars, which warn where arrays wrap in silence
        state = np.uint32(0)
        for word in words:
            word = _unsigned(word) * np.uint32(0xCC9E2D51)
            word = (word << np.uint32(15)) | (word >> np.uint32(17))
            state = state ^ (word * np.uint32(0x1B873593))
            state = ((state << np.uint32(13)) | (state >> np.uint32(19))) * np.uint32(5) + np.uint32(0xE6546B64)
        state = (state ^ (state >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        state = (state ^ (state >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        return state ^ (state >> np.uint32(16))
