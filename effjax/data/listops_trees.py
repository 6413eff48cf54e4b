"""ListOps by its published grammar: nested lists of digits under MIN, MAX, MED and SM, many trees at once.

A tree of depth d has an operator at its root. A node above the greatest depth is an operator with probability 0.25,
else a digit; an operator has 2 to `max_args` arguments, all numbers equally likely. Trees whose tokens, `[OP` and `]`
among them, are too few or too many are thrown away.
"""

from collections.abc import Iterator

import numpy as np

from effjax.errors import UserError

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
TOKENS = (*map(str, range(10)), *OPERATORS, "]")
OPERATOR, END = 10, 14  # ids of the first operator and of the bracket
P_OPERATOR = 0.25
ROUND = 4096  # trees that are drawn at once


def generate(
    n: int, *, seed: int, max_depth: int = 10, max_args: int = 10, min_tokens: int = 500, max_tokens: int = 2000
) -> Iterator[tuple[np.ndarray, int]]:
    """Draws different trees, in an order and of a kind that depend on the other arguments, not on how many are wanted.

    Args:
      n: how many.
      seed: of the draws.
      max_depth: levels of a tree, the root's the first.
      max_args: most arguments of an operator.
      min_tokens, max_tokens: lengths between which, both excluded, a tree is kept.

    Returns:
      Iterator of token ids (indices of `TOKENS`), uint8, and values, 0 to 9.

    Raises:
      UserError: sizes that make no tree.

    Source: Nangia & Bowman 2018 (1804.06028); sizes: Tay et al. 2021 (2011.04006), section 2.2.1 and its public code.
    """
    if max_depth < 2 or max_args < 2 or not 1 <= min_tokens < max_tokens - 1:
        raise UserError(
            f"ListOps with max_depth={max_depth}, max_args={max_args}, min_tokens={min_tokens}, "
            f"max_tokens={max_tokens}: at least 2, 2, 1 and min_tokens + 2 are needed"
        )
    seen, number = set(), 0
    while len(seen) < n:
        if number >= 100 and len(seen) * 1000 < number:  # one tree in four million
            raise UserError(
                f"ListOps of {min_tokens} to {max_tokens} tokens hardly ever come out of max_depth={max_depth} and "
                f"max_args={max_args}: {len(seen)} of {number * ROUND:,} trees"
            )
        rng = np.random.default_rng((seed, number))
        number += 1
        for tokens, value in _round(rng, max_depth, max_args, min_tokens, max_tokens):
            key = tokens.tobytes()
            if key not in seen and len(seen) < n:
                seen.add(key)
                yield tokens, value


def _round(rng, max_depth, max_args, min_tokens, max_tokens):
    """The trees of one round that are long enough and not too long."""
    levels = _draw(rng, max_depth, max_args)
    _evaluate(levels)
    length = levels[0]["length"]
    kept = (length > min_tokens) & (length < max_tokens)
    starts = np.cumsum(np.where(kept, length, 0)) - np.where(kept, length, 0)
    text = np.zeros(int(length[kept].sum()), np.uint8)
    place, keep = starts, kept
    for level, below in zip(levels, [*levels[1:], None]):
        symbol, operator = level["symbol"], level["operator"]
        text[place[keep]] = symbol[keep]
        closing = keep & operator
        text[(place + level["length"] - 1)[closing]] = END
        if below is not None and below["symbol"].size:
            before = np.cumsum(below["length"]) - below["length"]
            first = np.repeat(before[level["first"][operator]], level["args"][operator])
            parent = np.repeat(np.flatnonzero(operator), level["args"][operator])
            place, keep = place[parent] + 1 + before - first, keep[parent]
        else:
            break
    for tree in np.flatnonzero(kept):
        yield text[starts[tree] : starts[tree] + length[tree]], int(levels[0]["value"][tree])


def _draw(rng, max_depth, max_args):
    """Nodes level by level; the arguments of an operator stand next to each other, in the order of the operators."""
    levels, n = [], ROUND
    for depth in range(1, max_depth + 1):
        operator = rng.random(n) < (1.0 if depth == 1 else P_OPERATOR) if depth < max_depth else np.zeros(n, bool)
        symbol = np.where(operator, OPERATOR + rng.integers(len(OPERATORS), size=n), rng.integers(10, size=n))
        args = np.where(operator, rng.integers(2, max_args + 1, size=n), 0)
        levels.append(dict(operator=operator, symbol=symbol, args=args, first=np.cumsum(args) - args))
        n = int(args.sum())
        if not n:
            break
    return levels


def _evaluate(levels):
    """Lengths and values, from the bottom up."""
    below = None
    for level in reversed(levels):
        operator, n = level["operator"], len(level["operator"])
        level["length"], level["value"] = np.ones(n, np.int64), np.where(operator, 0, level["symbol"])
        if operator.any():
            first, args = level["first"][operator], level["args"][operator]
            level["length"][operator] = 2 + np.add.reduceat(below["length"], first)
            level["value"][operator] = _apply(level["symbol"][operator] - OPERATOR, below["value"], first, args)
        below = level


def _apply(kind, values, first, args):
    """The values of operators over their arguments, `values[first : first + args]` of each."""
    group = np.repeat(np.arange(len(args)), args)
    ordered = values[np.lexsort((values, group))]
    median = (ordered[first + (args - 1) // 2] + ordered[first + args // 2]) // 2
    total = np.add.reduceat(values, first) % 10
    return np.choose(kind, [ordered[first], ordered[first + args - 1], median, total])
