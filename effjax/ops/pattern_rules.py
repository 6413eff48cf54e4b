"""Elementary rules of static sparsity patterns; `effjax.ops.patterns` lists them and builds the published ones."""

from dataclasses import dataclass
from functools import cached_property, reduce
from operator import or_
from typing import Any

import jax.numpy as jnp
import numpy as np

from effjax.ops.pattern_algebra import Columns, Part, Pattern, PerHead, at_least


@dataclass(frozen=True)
class Everything(Pattern):
    """Every query sees every key."""

    def allows(self, query, key, head):
        return (query == query) & (key == key)

    def bounds(self, query, key, head):
        some, _ = super().bounds(query, key, head)
        return some, some


@dataclass(frozen=True)
class Causal(Pattern):
    """Query i sees the keys j <= i."""

    def allows(self, query, key, head):
        return key <= query

    def bounds(self, query, key, head):
        return key.first <= query.last, key.last <= query.first


@dataclass(frozen=True)
class SlidingWindow(Pattern):
    """Query i sees the keys j = i + dilation m with |m| <= window."""

    window: int
    dilation: int = 1

    def __post_init__(self):
        at_least(0, window=self.window)
        at_least(1, dilation=self.dilation)

    def allows(self, query, key, head):
        distance = query - key
        reach = self.window * self.dilation
        return (distance <= reach) & (distance >= -reach) & (distance % self.dilation == 0)

    def bounds(self, query, key, head):
        reach = self.window * self.dilation
        some = (query.first - key.last <= reach) & (key.first - query.last <= reach)
        every = (query.last - key.first <= reach) & (key.last - query.first <= reach)
        if self.dilation > 1:
            if query.step % self.dilation or key.step % self.dilation:
                return some, every & False
            same = (query.first - key.first) % self.dilation == 0
            some, every = some & same, every & same
        return some, every

    def parts(self, head):
        return (Part(self, order=self.dilation),)


@dataclass(frozen=True)
class BlockWindow(Pattern):
    """Query i sees the blocks of positions from `before` blocks before its own to `after` blocks after it.

    -before <= floor(j / block) - floor(i / block) <= after.
    """

    block: int
    before: int = 0
    after: int = 0

    def __post_init__(self):
        at_least(1, block=self.block)
        at_least(0, before=self.before, after=self.after)

    def allows(self, query, key, head):
        ahead = key // self.block - query // self.block
        return (ahead >= -self.before) & (ahead <= self.after)

    def bounds(self, query, key, head):
        least = key.first // self.block - query.last // self.block
        most = key.last // self.block - query.first // self.block
        return (most >= -self.before) & (least <= self.after), (least >= -self.before) & (most <= self.after)


@dataclass(frozen=True)
class Sinks(Pattern):
    """Every query sees the first `count` keys."""

    count: int

    def __post_init__(self):
        at_least(1, count=self.count)

    def allows(self, query, key, head):
        return (key < self.count) & (query == query)

    def bounds(self, query, key, head):
        both, _ = super().bounds(query, key, head)
        return both & (key.first < self.count), both & (key.last < self.count)


@dataclass(frozen=True)
class GlobalTokens(Pattern):
    """Some positions see every key and are seen by every query: the first `tokens`, or those given as a tuple."""

    tokens: int | tuple[int, ...]

    def __post_init__(self):
        if isinstance(self.tokens, int):
            at_least(1, tokens=self.tokens)
        elif not self.tokens or min(self.tokens) < 0:
            raise ValueError(f"tokens is {self.tokens}: it must be a number or a tuple of positions of at least 0")

    @cached_property
    def runs(self) -> list[tuple[int, int]]:
        """The positions as runs [first, last] without a gap."""
        if isinstance(self.tokens, int):
            return [(0, self.tokens - 1)]
        runs = []
        for token in sorted(set(self.tokens)):
            if runs and token == runs[-1][1] + 1:
                runs[-1] = (runs[-1][0], token)
            else:
                runs.append((token, token))
        return runs

    def allows(self, query, key, head):
        within = lambda position: reduce(or_, [(position >= a) & (position <= b) for a, b in self.runs])
        return within(query) | within(key)

    def bounds(self, query, key, head):
        touched = lambda span: reduce(or_, [(span.first <= b) & (span.last >= a) for a, b in self.runs])
        covered = lambda span: reduce(or_, [(span.first >= a) & (span.last <= b) for a, b in self.runs])
        return touched(query) | touched(key), covered(query) | covered(key)


@dataclass(frozen=True)
class SameResidue(Pattern):
    """Query i sees the keys j with (i - j) mod modulus = 0."""

    modulus: int

    def __post_init__(self):
        at_least(1, modulus=self.modulus)

    def allows(self, query, key, head):
        return (query - key) % self.modulus == 0

    def bounds(self, query, key, head):
        some, _ = super().bounds(query, key, head)
        if query.step % self.modulus or key.step % self.modulus:
            return some, some & (self.modulus == 1)
        same = some & ((query.first - key.first) % self.modulus == 0)
        return same, same

    def parts(self, head):
        return (Part(self, order=self.modulus),)


@dataclass(frozen=True)
class Summary(Pattern):
    """Every query sees the last `size` cells of every block of keys, or those before the last `skip` cells.

    block - skip - size <= j mod block < block - skip.
    """

    block: int
    size: int
    skip: int = 0

    def __post_init__(self):
        at_least(1, block=self.block, size=self.size)
        at_least(0, skip=self.skip)
        if self.size + self.skip > self.block:
            raise ValueError(f"size is {self.size} and skip {self.skip}: together at most block = {self.block}")

    def allows(self, query, key, head):
        cell, stop = key % self.block, self.block - self.skip
        return (cell >= stop - self.size) & (cell < stop) & (query == query)

    def parts(self, head):
        columns = Columns(self.block, self.block - self.skip - self.size)
        return (Part(self if self.skip else Everything(), keys=columns),)


@dataclass(frozen=True, eq=False)
class Mask(Pattern):
    """An explicit mask of all heads, equal to another of the same content; see `from_mask`."""

    array: np.ndarray  # [queries, keys]

    def __eq__(self, other):
        return isinstance(other, Mask) and np.array_equal(self.array, other.array)

    def __hash__(self):
        return self._hash

    @cached_property
    def _hash(self):
        return hash((self.array.shape, np.packbits(self.array).tobytes()))

    def allows(self, query, key, head):
        queries, keys = self.array.shape
        inside = (query >= 0) & (query < queries) & (key >= 0) & (key < keys)
        xp = np if isinstance(query, np.ndarray) and isinstance(key, np.ndarray) else jnp
        return xp.asarray(self.array)[query % queries, key % keys] & inside


def from_mask(array: Any) -> Pattern:
    """An explicit mask, for everyone or by head; nothing is seen beyond its edges.

    Args:
      array: boolean, [queries, keys] or [heads, queries, keys], True where a query may attend.

    Returns:
      The pattern.

    Raises:
      ValueError: another number of axes.
    """
    array = np.asarray(array, bool)
    if array.ndim not in (2, 3):
        raise ValueError(f"array has shape {array.shape}: it must be [queries, keys] or [heads, queries, keys]")
    return Mask(array) if array.ndim == 2 else PerHead(tuple(Mask(head) for head in array))
