"""Which blocks of queries and keys a pattern visits, found on the host while tracing and kept for the next trace.

No array of all pairs is made: `Pattern.bounds` decides whole blocks, and only those that it leaves open are looked at
pair by pair. What is kept grows with the number of blocks that are visited.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from effjax.ops.pattern_algebra import Columns, Part, Pattern, Span

SMALL_PAIRS = 2**12  # of a block whose products are too small to run well one by one
PAIRS_AT_ONCE = 2**22  # of positions or of blocks, looked at in one numpy operation
BLOCKS = (32, 64, 128, 256, 512)  # positions a block may have
STEP_COST = 2048  # what a step of the loop over blocks costs besides its products, as so many pairs


@dataclass(frozen=True)
class Axis:
    """Queries or keys in the order of a part, cut into blocks of equal size.

    Residue classes stand one after the other, each in whole blocks; if they are short, a block holds several of them.
    """

    length: int
    order: int
    columns: Columns | None
    target: int  # slots that a block should have
    start: int = 0  # position of the first one

    @cached_property
    def _class_length(self) -> int:
        kept = self.length
        if self.columns is not None:
            kept = -(-self.length // self.columns.period) * (self.columns.period - self.columns.start)
        return -(-kept // self.order)

    @cached_property
    def classes_per_block(self) -> int:
        return max(1, min(self.order, self.target // self._class_length))

    @cached_property
    def block(self) -> int:
        """Slots of a block."""
        pieces = -(-self._class_length // self.target)
        if pieces == 1:
            return self._class_length * self.classes_per_block
        return -(-self._class_length // (pieces * 16)) * 16

    @cached_property
    def count(self) -> int:
        """Number of blocks."""
        if self.classes_per_block > 1:
            return -(-self.order // self.classes_per_block)
        return self.order * -(-self._class_length // self.block)

    @cached_property
    def natural(self) -> bool:
        """Whether the slots are the positions in their order, so that `arrange` changes nothing."""
        return self.order == 1 and self.columns is None and self.count * self.block == self.length

    def arrange(self, x, fill=0):
        """[length, ...] -> [count * block, ...], of numpy or of JAX arrays; slots without a position hold `fill`."""
        xp = np if isinstance(x, np.ndarray) else jnp

        def pad(x, *sizes):
            margins = [(0, size - old) for size, old in zip(sizes, x.shape)] + [(0, 0)] * (x.ndim - len(sizes))
            return xp.pad(x, margins, constant_values=fill) if any(after for _, after in margins) else x

        rest = x.shape[1:]
        if self.columns is not None:
            periods = -(-self.length // self.columns.period)
            x = pad(x, periods * self.columns.period).reshape(periods, self.columns.period, *rest)
            x = x[:, self.columns.start :].reshape(-1, *rest)
        if self.order > 1:
            x = pad(x, self._class_length * self.order).reshape(self._class_length, self.order, *rest).swapaxes(0, 1)
            slots = self.count * self.block
            if self.classes_per_block > 1:
                return pad(x, slots // self._class_length).reshape(slots, *rest)
            return pad(x, self.order, slots // self.order).reshape(slots, *rest)
        return pad(x, self.count * self.block)

    def restore(self, x):
        """The transpose of `arrange`: [count * block, ...] -> [length, ...], 0 where a position has no slot."""
        rest = x.shape[1:]
        if self.order > 1:
            if self.classes_per_block > 1:
                x = x.reshape(-1, self._class_length, *rest)[: self.order]
            else:
                x = x.reshape(self.order, -1, *rest)[:, : self._class_length]
            x = x.swapaxes(0, 1).reshape(-1, *rest)
        if self.columns is not None:
            periods, kept = -(-self.length // self.columns.period), self.columns.period - self.columns.start
            x = x[: periods * kept].reshape(periods, kept, *rest)
            x = jnp.pad(x, [(0, 0), (self.columns.start, 0)] + [(0, 0)] * len(rest)).reshape(-1, *rest)
        return x[: self.length]

    @cached_property
    def positions(self) -> np.ndarray:
        """int32 [count, block]; `start` where a slot is empty."""
        return (self.arrange(np.arange(self.length, dtype=np.int32)) + np.int32(self.start)).reshape(self.count, -1)

    @cached_property
    def there(self) -> np.ndarray:
        """bool [count, block]: whether the slot holds a position."""
        return self.arrange(np.ones(self.length, bool), False).reshape(self.count, -1)

    def spans(self) -> tuple[Span, np.ndarray]:
        """The positions of each class of each block, and whether there are any; arrays [count * classes_per_block]."""
        shape = (self.count * self.classes_per_block, -1)
        positions, there = self.positions.reshape(shape), self.there.reshape(shape)
        first = np.where(there, positions, np.iinfo(np.int32).max).min(1).astype(np.int64)
        last = np.where(there, positions, -1).max(1).astype(np.int64)
        some = there.any(1)
        return Span(np.where(some, first, 0), np.where(some, last, 0), self.order), some


class Lists(NamedTuple):
    """For every block of one axis, the blocks of the other that it visits: those without a mask first.

    Block i visits index[start[i]:start[i + 1]], without mask up to middle[i]; after that block e under masks[mask[e]].
    """

    start: np.ndarray
    middle: np.ndarray
    index: np.ndarray
    mask: np.ndarray

    @property
    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every block, the numbers of blocks that it visits without and with a mask."""
        return self.middle - self.start[..., :-1], self.start[..., 1:] - self.middle


@dataclass(frozen=True, eq=False)
class Layout:
    """The blocks that one part of a pattern visits in one head."""

    by_query: Lists
    by_key: Lists
    masks: np.ndarray  # bool [distinct masks, queries of a block, keys of a block]


def axes(part: Part, queries: int, keys: int, query_start: int, target: int) -> tuple[Axis, Axis]:
    """The two axes of a part's layout in blocks of about `target`."""
    return Axis(queries, part.order, None, target, query_start), Axis(keys, part.order, part.keys, target)


def best_axes(part: Part, queries: int, keys: int, query_start: int, head: int) -> tuple[Axis, Axis]:
    """The axes under which the part costs least, by the blocks that its bounds say are visited.

    Blocks that visit their own number alone, as residue classes do, are all one step while they are small.
    """

    def cost(pair):
        visited, own = 0, pair[0].count == pair[1].count
        for row, some, _ in _grid(part.rule, head, *pair):
            visited += some.sum()
            own = own and np.array_equal(some, np.eye(*some.shape, row, dtype=bool))
        pairs = pair[0].block * pair[1].block
        return visited * (pairs + (0 if own and pairs <= SMALL_PAIRS else STEP_COST))

    return min((axes(part, queries, keys, query_start, target) for target in BLOCKS), key=cost)


def _grid(rule, head, query_axis, key_axis):
    """Yields (first row, some, every) of the grid of blocks, a few rows at a time: bool [rows, key blocks]."""
    (query, query_there), (key, key_there) = query_axis.spans(), key_axis.spans()
    query_classes, key_classes = query_axis.classes_per_block, key_axis.classes_per_block
    complete = key_axis.there.all(1)
    rows = max(1, PAIRS_AT_ONCE // (query_classes * key_there.size))
    for row in range(0, query_axis.count, rows):
        cut = slice(row * query_classes, (row + rows) * query_classes)
        there = query_there[cut, None] & key_there
        some, every = rule.bounds(
            Span(query.first[cut, None], query.last[cut, None], query.step), Span(key.first, key.last, key.step), head
        )
        shape = (-1, query_classes, key_axis.count, key_classes)
        some = (there & some).reshape(shape).any((1, 3))
        every = (~there | every).reshape(shape).all((1, 3)) & complete
        yield row, some, some & every


@lru_cache(maxsize=256)
def layout(rule: Pattern, head: int, query_axis: Axis, key_axis: Axis) -> Layout:
    """Finds the blocks that `rule` visits."""
    rows, columns, kinds = [], [], []  # kind -1: no mask
    masks: dict[bytes, int] = {}
    for row, some, every in _grid(rule, head, query_axis, key_axis):
        for i, j in [np.nonzero(every)]:
            rows.append(i + row), columns.append(j), kinds.append(np.full(i.size, -1))
        i, j = np.nonzero(some & ~every)
        at_once = max(1, PAIRS_AT_ONCE // (query_axis.block * key_axis.block))
        for cut in range(0, i.size, at_once):
            i_cut, j_cut = i[cut : cut + at_once] + row, j[cut : cut + at_once]
            kind = _look(rule, head, query_axis, key_axis, i_cut, j_cut, masks)
            seen = kind > -2
            rows.append(i_cut[seen]), columns.append(j_cut[seen]), kinds.append(kind[seen])
    rows, columns, kinds = (np.concatenate(x).astype(np.int32) for x in (rows, columns, kinds))
    shape = (len(masks), query_axis.block, key_axis.block)
    packed = np.frombuffer(b"".join(masks), np.uint8).reshape(len(masks), -(-shape[1] * shape[2] // 8))
    unpacked = np.unpackbits(packed, axis=1, count=shape[1] * shape[2]).astype(bool).reshape(shape)
    return Layout(
        _lists(rows, columns, kinds, query_axis.count), _lists(columns, rows, kinds, key_axis.count), unpacked
    )


def _look(rule, head, query_axis, key_axis, i, j, masks):
    """Looks at blocks pair by pair: -2 where nothing is allowed, -1 where all is, else the number of the mask."""
    query, key = query_axis.positions[i][:, :, None], key_axis.positions[j][:, None, :]
    query_there, key_there = query_axis.there[i][:, :, None], key_axis.there[j][:, None, :]
    allowed = np.broadcast_to(rule.allows(query, key, head), (i.size, query_axis.block, key_axis.block))
    every = ((allowed | ~query_there) & key_there).all((1, 2))
    allowed = allowed & query_there & key_there
    kind = np.where(every, -1, -2)
    partial = np.flatnonzero(allowed.any((1, 2)) & ~every)
    packed = np.packbits(allowed[partial].reshape(partial.size, query_axis.block * key_axis.block), axis=1)
    kind[partial] = [masks.setdefault(row.tobytes(), len(masks)) for row in packed]
    return kind


def _lists(blocks, others, kinds, count):
    order = np.lexsort((others, kinds >= 0, blocks))
    unmasked = np.bincount(blocks[kinds < 0], minlength=count)
    start = np.concatenate([[0], np.cumsum(np.bincount(blocks, minlength=count))]).astype(np.int32)
    return Lists(start, (start[:-1] + unmasked).astype(np.int32), others[order], np.maximum(kinds[order], 0))
