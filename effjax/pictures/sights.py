"""Who attends to whom in a token mixer, as named rules about positions: a table of the mixers that follow such rules.

A mixer that decides by content (LSH, learned spans), or in which all see all through a summary, is not in the table.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from effjax.layers import FullAttention, LocalAttention, LongformerAttention, Mixer, TransformerXLAttention
from effjax.layers.convolution import Convolution
from effjax.layers.lsra import LSRA
from effjax.layers.projections import SeparateHeads
from effjax.layers.sparse import BigBirdAttention, PatternAttention
from effjax.ops import patterns

RULES = {
    patterns.Everything: "all positions",
    patterns.Causal: "all of the past",
    patterns.SlidingWindow: "window",
    patterns.BlockWindow: "blocks nearby",
    patterns.GlobalTokens: "global tokens",
    patterns.Sinks: "first tokens",
    patterns.SameResidue: "multiples of the stride",
    patterns.Summary: "summary cells",
    patterns.LogSparse: "distances that double",
    patterns.RandomBlocks: "random blocks",
    patterns.Mask: "given mask",
}


@dataclasses.dataclass(frozen=True)
class Sight:
    """Who sees whom in one head.

    Attributes:
      parts: pairs (name, `allows(query, key, head)`); a pair of positions belongs to the first part that allows it.
      note: the settings behind it.
      queries, keys: evenly spaced positions to look at; those before 0 are in memory.
    """

    parts: tuple[tuple[str, Callable[..., Any]], ...]
    note: str
    queries: np.ndarray
    keys: np.ndarray

    def pairs(self, head: int) -> np.ndarray:
        """`[queries, keys]`: 0 where a query does not see a key, otherwise the number of the part, from 1."""
        seen = np.zeros((len(self.queries), len(self.keys)), np.int8)
        for number, (_, allows) in reversed([*enumerate(self.parts, 1)]):
            allowed = allows(self.queries[:, None], self.keys[None], head)
            seen[np.broadcast_to(allowed, seen.shape)] = number
        return seen


@functools.singledispatch
def sight_of(mixer: Mixer, head: int, *, length: int, piece: int) -> Sight | None:
    """Who sees whom in one head of a mixer.

    Args:
      mixer: a token mixer.
      head: number of the head, from 0.
      length: positions to look at.
      piece: tokens that a model with a memory sees at once.

    Returns:
      None for a mixer that follows no rule about positions.
    """
    return None


@sight_of.register
def _(mixer: FullAttention, head, *, length, piece):
    rule = patterns.Causal() if mixer.causal else patterns.Everything()
    return _square([(RULES[type(rule)], rule)], "", length)


@sight_of.register
def _(mixer: LocalAttention, head, *, length, piece):
    own = patterns.BlockWindow(mixer.chunk_size)
    near = patterns.BlockWindow(mixer.chunk_size, mixer.look_back, mixer.look_ahead)
    parts = [("own chunk", own), ("chunks beside it", near)]
    return _square(_causal(mixer, parts), settings(mixer), length)


@sight_of.register
def _(mixer: LongformerAttention, head, *, length, piece):
    dilation = mixer.dilations[head]
    parts, note = [("window", patterns.SlidingWindow(mixer.window, dilation))], f"window {mixer.window}"
    if dilation > 1:
        note += f", dilation {dilation}"
    if mixer.global_tokens:
        parts.append(("global tokens", patterns.GlobalTokens(mixer.global_tokens)))
    if mixer.max_global:
        note += f", up to {mixer.max_global} global tokens of a mask not drawn"
    return _square(_causal(mixer, parts), note, length)


@sight_of.register
def _(mixer: TransformerXLAttention, head, *, length, piece):
    memory, reach = mixer.memory_length, np.inf
    if mixer.same_length:
        reach = memory - 1
    near = reach if mixer.clamp_length is None else min(reach, mixer.clamp_length)

    def seen(least, most, remembered):
        return lambda query, key, head: (
            (query - key >= least) & (query - key <= most) & ((key < 0) if remembered else (key >= 0))
        )

    parts = [("own piece", seen(0, reach, False)), ("memory", seen(0, near, True))]
    if near < reach:
        parts.append((f"memory further than {near:,}, distances alike", seen(near, reach, True)))
    step = -(-(memory + piece) // length)
    note = f"piece {piece:,}, memory {memory:,}" + (f", every {step}th position drawn" if step > 1 else "")
    return Sight(tuple(parts), note, np.arange(0, piece, step), np.arange(-(memory // step) * step, piece, step))


@sight_of.register
def _(mixer: Convolution, head, *, length, piece):
    before, after = mixer.kernel_size - 1, 0
    if not mixer.causal:
        before, after = (mixer.kernel_size - 1) // 2, mixer.kernel_size // 2
    rule = lambda query, key, head: (query - key <= before) & (key - query <= after)
    return _square([("kernel", rule)], f"kernel size {mixer.kernel_size}", length)


@sight_of.register
def _(mixer: LSRA, head, *, length, piece):
    long, short = (
        sight_of(branch, head, length=length, piece=piece) for branch in mixer.branches(name=None, parent=None)
    )
    if long is None:
        return None
    parts = [(f"convolution: {name}", allows) for name, allows in short.parts]
    parts += [(f"attention: {name}", allows) for name, allows in long.parts]
    return dataclasses.replace(long, parts=tuple(parts), note=", ".join(filter(None, [long.note, short.note])))


@sight_of.register
def _(mixer: PatternAttention, head, *, length, piece):
    return _square(named_parts(mixer.pattern, head), settings(mixer), length)


@sight_of.register
def _(mixer: BigBirdAttention, head, *, length, piece):
    pattern, note = mixer.pattern, f"blocks of {mixer.block}: {mixer.n_window} near, {mixer.n_global} global, "
    if mixer.causal:
        return _square(named_parts(pattern, head), f"{note}{mixer.n_random} random", length)
    last = (length - 1) // mixer.block * mixer.block  # which is global, wherever a sequence ends
    pattern |= patterns.GlobalTokens(tuple(range(last, length)))
    return _square(named_parts(pattern, head), f"{note}{mixer.n_random} random of {mixer.among}", length)


def named_parts(pattern: patterns.Pattern, head: int) -> list[tuple[str, Callable[..., Any]]]:
    """The alternatives that a pattern leaves one head, by name, each with the conditions that all of them share."""
    rule = pattern.of_head(head)
    terms = rule.terms if isinstance(rule, patterns.And) else (rule,)
    unions = [term for term in terms if isinstance(term, patterns.Or)]
    if len(unions) == 1:
        shared = [term for term in terms if term is not unions[0]]
        return [(rule_name(choice), _all(choice, *shared)) for choice in unions[0].terms]
    return [(rule_name(rule), rule)]


def rule_name(rule: patterns.Pattern) -> str:
    """What a legend calls a rule."""
    if isinstance(rule, patterns.And):
        names = [rule_name(term) for term in rule.terms if not isinstance(term, patterns.Causal)]
        return " and ".join(names) or RULES[patterns.Causal]
    if isinstance(rule, patterns.Or):
        return " or ".join(map(rule_name, rule.terms))
    if isinstance(rule, patterns.Not):
        return f"not {rule_name(rule.term)}"
    if isinstance(rule, patterns.BlockWindow) and not (rule.before or rule.after):
        return "own block"
    return RULES.get(type(rule), type(rule).__name__)


def settings(mixer: Mixer) -> str:
    """The numbers and names that a mixer has beyond those of all attention layers."""
    common = {field.name for field in dataclasses.fields(SeparateHeads)}
    own = {field.name: getattr(mixer, field.name) for field in dataclasses.fields(mixer) if field.name not in common}
    shown = {name: value for name, value in own.items() if value and not isinstance(value, bool)}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items())


def _all(first, *others):
    return lambda query, key, head: functools.reduce(
        lambda allowed, rule: allowed & rule.allows(query, key, head), others, first.allows(query, key, head)
    )


def _causal(mixer, parts):
    return [(name, patterns.Causal() & rule if mixer.causal else rule) for name, rule in parts]


def _square(parts, note, length):
    """Queries and keys from one sequence."""
    allows = lambda rule: rule.allows if isinstance(rule, patterns.Pattern) else rule
    positions = np.arange(length)
    return Sight(tuple((name, allows(rule)) for name, rule in parts), note, positions, positions)
