"""What `effjax.ops.sparse` runs: heads of equal structure together, each part of their pattern with its layout."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from effjax.ops.pattern_algebra import Pattern
from effjax.ops.sparse_bands import Band, band
from effjax.ops.sparse_layout import Axis, Layout, Lists, best_axes, layout


@dataclass(frozen=True, eq=False)
class PartPlan:
    """One part of the pattern in all heads of a group; heads that visit the same blocks share their lists."""

    queries: Axis
    keys: Axis
    layout_of: np.ndarray  # [heads of the group]
    by_query: Lists  # of every layout, one after the other; start and middle are [layouts, blocks]
    by_key: Lists
    masks: np.ndarray
    query_band: Band | None  # what by_query says, where the blocks visited are a band
    key_band: Band | None


@dataclass(frozen=True, eq=False)
class Group:
    """Heads whose patterns have the same parts, up to the blocks that these visit."""

    heads: np.ndarray
    parts: tuple[PartPlan, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that is known before the arrays are."""

    pattern: Pattern
    groups: tuple[Group, ...]


@lru_cache(maxsize=64)
def plan(pattern: Pattern, heads: int, queries: int, keys: int, query_start: int) -> Plan:
    """Lays a pattern out for a call.

    Args:
      pattern: the rule.
      heads: N.
      queries: T.
      keys: S.
      query_start: position of the first query, where the first key stands at 0.

    Raises:
      ValueError: under the pattern every query sees nothing.
    """
    groups: dict[tuple, list] = {}
    for head in range(heads):
        found = []
        for part in pattern.parts(head):
            like = head if by_head(part.rule, heads) else 0
            pair = _axes(part, queries, keys, query_start, like)
            made = layout(part.rule, like, *pair)
            if made.by_query.index.size:
                found.append((pair, made))
        if found:
            groups.setdefault(tuple(pair for pair, _ in found), []).append((head, [made for _, made in found]))
    if not groups:
        raise ValueError(f"pattern is {pattern}: under it none of {queries} queries sees any of {keys} keys")
    return Plan(pattern, tuple(_group(pairs, members) for pairs, members in groups.items()))


_axes = lru_cache(maxsize=256)(best_axes)


def by_head(rule: Pattern, heads: int) -> bool:
    """Whether a rule looks at the head: its answer for one pair then has an axis of heads."""
    pair = np.zeros((1, 1, 1), int)
    return np.shape(rule.allows(pair, pair, np.arange(heads).reshape(-1, 1, 1)))[0] > 1


def _group(pairs, members):
    heads, made = zip(*members)
    parts = []
    for (queries, keys), layouts in zip(pairs, zip(*made)):
        distinct = list(dict.fromkeys(layouts))
        layout_of = np.array([distinct.index(one) for one in layouts], np.int32)
        by_query, by_key, masks = _stack(distinct)
        bands = band(by_query, masks, keys.count), band(by_key, masks.swapaxes(1, 2), queries.count)
        parts.append(PartPlan(queries, keys, layout_of, by_query, by_key, masks, *bands))
    return Group(np.array(heads, np.int32), tuple(parts))


def _stack(layouts: list[Layout]):
    """The lists of several layouts one after the other, over one table of masks."""
    first_mask = np.cumsum([0, *(len(one.masks) for one in layouts[:-1])])

    def stack(lists):
        offsets = np.cumsum([0, *(one.index.size for one in lists[:-1])])
        return Lists(
            np.stack([one.start + offset for one, offset in zip(lists, offsets)]).astype(np.int32),
            np.stack([one.middle + offset for one, offset in zip(lists, offsets)]).astype(np.int32),
            np.concatenate([one.index for one in lists]).astype(np.int32),
            np.concatenate([one.mask + first for one, first in zip(lists, first_mask)]).astype(np.int32),
        )

    by_query, by_key = stack([one.by_query for one in layouts]), stack([one.by_key for one in layouts])
    return by_query, by_key, np.concatenate([one.masks for one in layouts])
