"""What a static sparsity pattern is, and how patterns combine; the patterns themselves are in `effjax.ops.patterns`.

A pattern is a rule about positions, not an array: a frozen (hashable, comparable) dataclass derived from `Pattern`.
The executor, `effjax.ops.sparse`, asks it three things:

* `allows(query, key, head)`: the rule itself, elementwise, on integer arrays that broadcast against each other. It is
  called with numpy arrays when a layout is made and with traced JAX arrays when decoding, so it uses only operators
  (`+ - * // % & | ~ == <`) and functions that both have. This is the only method that a pattern must have.
* `bounds(query, key, head)`: what the rule says of whole blocks. `query` and `key` are `Span`s, whose fields are numpy
  arrays that broadcast against each other; a span stands for the positions first, first + step, ..., last. Returns
  `(some, every)`: `some` must be True wherever one pair of the block is allowed, `every` must be False wherever one
  pair is not. Either may be wrong on the safe side (some=True, every=False, as in `Pattern.bounds`): blocks left
  undecided are evaluated pair by pair, which is what makes a long layout slow to build.
* `parts(head)`: the pattern as disjoint parts, each with the order of positions in which it is block-local:

    pairs of the pattern = disjoint union over its parts of {(i, j): part.rule.allows(i, j, head), j in part.keys}.

  The default is one part in the natural order. A pattern is cheap where few blocks of its parts, each cut out of the
  positions in the part's own order, hold an allowed pair.
    - `order=m` sorts positions by (position mod m, position): a rule such as (i - j) % m == 0 then lies in small
      blocks along the diagonal. Both queries and keys are sorted. The cost of a part then follows its own pairs, for
      instance n^2 / m for a strided rule, and n w for a window w that is dilated by m.
    - `keys=Columns(period, start)` keeps only the keys with j % period >= start, next to each other.
  `&` and `|` find the parts of a combination by themselves; `|` takes from each part what the parts before it hold.
"""

from dataclasses import dataclass
from functools import cached_property, reduce
from operator import and_, or_
from typing import Any, NamedTuple

import numpy as np


class Span(NamedTuple):
    """The positions first, first + step, ..., last of a block; arrays that broadcast against those of another span."""

    first: Any
    last: Any
    step: int


@dataclass(frozen=True)
class Columns:
    """The keys j with j % period >= start."""

    period: int
    start: int


@dataclass(frozen=True)
class Part:
    """A set of pairs and the order in which it is block-local; see the docstring of this module."""

    rule: "Pattern"
    order: int = 1
    keys: Columns | None = None

    @property
    def plain(self) -> bool:
        """Whether the part is in the natural order, on all keys."""
        return self.order == 1 and self.keys is None


class Pattern:
    """Which query may attend to which key. Combine with `&`, `|` and `~`."""

    def allows(self, query: Any, key: Any, head: Any) -> Any:
        """Whether each query may attend to each key, elementwise over broadcast position arrays (numpy or JAX)."""
        raise NotImplementedError

    def bounds(self, query: Span, key: Span, head: int) -> tuple[Any, Any]:
        """(whether some pair of a block may be allowed, whether every pair surely is), elementwise over blocks."""
        shape = np.broadcast_shapes(np.shape(query.first), np.shape(key.first))
        return np.ones(shape, bool), np.zeros(shape, bool)

    def of_head(self, head: int) -> "Pattern":
        """The same pattern for one head; where heads differ by `PerHead` only, it looks at heads no more."""
        return self

    def parts(self, head: int) -> tuple[Part, ...]:
        """The pattern of one head as disjoint parts."""
        return (Part(self.of_head(head)),)

    def dense(self, length: int, head: int = 0) -> np.ndarray:
        """The pattern of one head as a boolean array [queries, keys]: its oracle and its picture."""
        query, key = np.ogrid[:length, :length]
        return np.broadcast_to(self.allows(query, key, head), (length, length))

    def __and__(self, other: "Pattern") -> "Pattern":
        return And((*_terms(And, self), *_terms(And, other)))

    def __or__(self, other: "Pattern") -> "Pattern":
        return Or((*_terms(Or, self), *_terms(Or, other)))

    def __invert__(self) -> "Pattern":
        return self.term if isinstance(self, Not) else Not(self)


def _terms(kind, pattern):
    return pattern.terms if isinstance(pattern, kind) else (pattern,)


@dataclass(frozen=True)
class And(Pattern):
    """What every term allows."""

    terms: tuple[Pattern, ...]

    def allows(self, query, key, head):
        return reduce(and_, [term.allows(query, key, head) for term in self.terms])

    def bounds(self, query, key, head):
        some, every = zip(*(term.bounds(query, key, head) for term in self.terms))
        return reduce(and_, some), reduce(and_, every)

    def of_head(self, head):
        return And(tuple(term.of_head(head) for term in self.terms))

    def parts(self, head):
        """The parts of the first term that has an order of its own, cut down by the other terms."""
        terms = self.of_head(head).terms
        for i, term in enumerate(terms):
            parts = term.parts(head)
            if not (len(parts) == 1 and parts[0].plain):
                rest = terms[:i] + terms[i + 1 :]
                return tuple(Part(reduce(and_, rest, part.rule), part.order, part.keys) for part in parts)
        return (Part(And(terms)),)


@dataclass(frozen=True)
class Or(Pattern):
    """What any term allows."""

    terms: tuple[Pattern, ...]

    def allows(self, query, key, head):
        return reduce(or_, [term.allows(query, key, head) for term in self.terms])

    def bounds(self, query, key, head):
        some, every = zip(*(term.bounds(query, key, head) for term in self.terms))
        return reduce(or_, some), reduce(or_, every)

    def of_head(self, head):
        return Or(tuple(term.of_head(head) for term in self.terms))

    def parts(self, head):
        """The terms in natural order as one part, then the others, each without what came before."""
        plain, parts = [], []
        for term in self.terms:
            for part in term.parts(head):
                plain.append(part.rule) if part.plain else parts.append(part)
        done = plain
        disjoint = [Part(reduce(or_, plain))] if plain else []
        for part in parts:
            before = [~seen for seen in done]
            disjoint.append(Part(reduce(and_, before, part.rule), part.order, part.keys))
            done = [*done, _as_rule(part)]
        return tuple(disjoint)


def _as_rule(part):
    """The pairs of a part as a rule."""
    return part.rule if part.keys is None else part.rule & InColumns(part.keys)


@dataclass(frozen=True)
class Not(Pattern):
    """What the term forbids."""

    term: Pattern

    def allows(self, query, key, head):
        return ~self.term.allows(query, key, head)

    def bounds(self, query, key, head):
        some, every = self.term.bounds(query, key, head)
        return ~every, ~some

    def of_head(self, head):
        return Not(self.term.of_head(head))


@dataclass(frozen=True)
class InColumns(Pattern):
    """Keys of some columns only, without the compaction of `Part.keys`."""

    keys: Columns

    def allows(self, query, key, head):
        return (key % self.keys.period >= self.keys.start) & (query == query)


class Composite(Pattern):
    """A combination of other patterns under a name of its own: a subclass defines `rule`, and nothing else."""

    @cached_property
    def rule(self) -> Pattern:
        """What the name stands for."""
        raise NotImplementedError

    def allows(self, query, key, head):
        return self.rule.allows(query, key, head)

    def bounds(self, query, key, head):
        return self.rule.bounds(query, key, head)

    def of_head(self, head):
        return self.rule.of_head(head)

    def parts(self, head):
        return self.rule.parts(head)


@dataclass(frozen=True)
class PerHead(Pattern):
    """Head h follows pattern h mod p of the p given."""

    patterns: tuple[Pattern, ...]

    def __post_init__(self):
        if not self.patterns:
            raise ValueError("patterns is (): it must hold at least one pattern")

    def allows(self, query, key, head):
        turn = head % len(self.patterns)
        return reduce(or_, [(turn == i) & each.allows(query, key, head) for i, each in enumerate(self.patterns)])

    def bounds(self, query, key, head):
        return self.of_head(head).bounds(query, key, head)

    def of_head(self, head):
        return self.patterns[head % len(self.patterns)].of_head(head)

    def parts(self, head):
        return self.of_head(head).parts(head)


def at_least(least: int, **arguments: int) -> None:
    """Raises ValueError for an argument below `least`, by name."""
    for name, value in arguments.items():
        if value < least:
            raise ValueError(f"{name} is {value}: it must be at least {least}")
