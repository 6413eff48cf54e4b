"""Static sparsity patterns: which query may attend to which key, as rules that `effjax.ops.sparse` executes.

| rule | who sees whom |
|---|---|
| `Everything()`, `Causal()` | all; the past and oneself |
| `SlidingWindow(window, dilation)` | neighbours, every `dilation`-th of them |
| `BlockWindow(block, before, after)` | one's own block of positions and the blocks beside it |
| `GlobalTokens(tokens)`, `Sinks(count)` | chosen positions see and are seen by all; the first keys are seen by all |
| `SameResidue(modulus)`, `Summary(block, size)` | positions congruent to one's own; the last cells of every block |
| `Strided(stride)`, `Fixed(block, summary)` | Sparse Transformer |
| `LogSparse(local, restart)` | positions at distances 1, 2, 4, 8, ... |
| `RandomBlocks(block, count)`, `big_bird(block)` | blocks drawn at random; BigBird |
| `streaming(window, sinks)` | a window and the first keys, StreamingLLM |
| `from_mask(array)` | an explicit mask |

`&`, `|` and `~` combine rules, `PerHead` gives each head its own, `pattern.dense(length, head)` is the mask that they
mean. `effjax.ops.pattern_algebra` says what a rule has to provide.
"""

from dataclasses import dataclass
from functools import cached_property, reduce
from operator import or_

import numpy as np

from effjax.ops.pattern_algebra import (
    And,
    Columns,
    Composite,
    InColumns,
    Not,
    Or,
    Part,
    Pattern,
    PerHead,
    Span,
    at_least,
)
from effjax.ops.pattern_rules import (
    BlockWindow,
    Causal,
    Everything,
    GlobalTokens,
    Mask,
    SameResidue,
    Sinks,
    SlidingWindow,
    Summary,
    from_mask,
)
from effjax.ops.random_blocks import RandomBlocks

__all__ = [
    "And",
    "BlockWindow",
    "Causal",
    "Columns",
    "Everything",
    "Fixed",
    "GlobalTokens",
    "InColumns",
    "LogSparse",
    "Mask",
    "Not",
    "Or",
    "Part",
    "Pattern",
    "PerHead",
    "RandomBlocks",
    "SameResidue",
    "Sinks",
    "SlidingWindow",
    "Span",
    "Strided",
    "Summary",
    "big_bird",
    "from_mask",
    "streaming",
]


@dataclass(frozen=True)
class LogSparse(Pattern):
    """Query i sees itself and the keys at distances 1, 2, 4, 8, ... before it.

    With `local` w, the w latest keys (itself included) and those at distances w - 1 + 2^m. With `restart` r, a distance
    d counts as d mod r: the pattern begins again every r positions back. In the paper's 1-based terms
    I_l = {l - 2^floor(log2 l), ..., l - 2, l - 1, l} without what is not positive.

    Source: Li et al. 2019 (arXiv 1907.00235), section 4.2 and figure 3; restarts are counted back from the query, as
    in the public adaptation of the authors' code, but without its full rows at the start of a sequence.
    """

    local: int = 1
    restart: int | None = None

    def __post_init__(self):
        at_least(1, local=self.local)
        if self.restart is not None and self.restart < self.local:
            raise ValueError(f"restart is {self.restart}: it must be None or at least local = {self.local}")

    def allows(self, query, key, head):
        distance = query - key
        past = distance >= 0
        if self.restart is not None:
            distance = distance % self.restart
        beyond = distance - (self.local - 1)
        return past & ((beyond <= 0) | (beyond & (beyond - 1) == 0))

    def bounds(self, query, key, head):
        least, most = query.first - key.last, query.last - key.first
        every = (least >= 0) & (most < self.local)
        past = most >= 0
        least = np.maximum(least, 0)
        if self.restart is not None:
            width, least = most - least, least % self.restart
            most = least + width
        # Some distance of a range is local, or a power of two further than the local ones: log2 differs at its ends.
        digits = lambda number: np.frexp(np.maximum(number, 0).astype(np.float64))[1]
        some = (least < self.local) | (digits(most - (self.local - 1)) > digits(least - self.local))
        if self.restart is not None:
            some = some | (most >= self.restart)
        return past & some, every


FORMS = ("merged", "split", "local", "far")


def _in_form(form, local, far, far_alone, *, causal=True):
    """Two parts as the heads of a Sparse Transformer use them."""
    patterns = {"merged": local | far, "split": PerHead((local, far_alone)), "local": local, "far": far_alone}
    if form not in patterns:
        raise ValueError(f"form is {form!r}: it must be one of {', '.join(FORMS)}")
    return Causal() & patterns[form] if causal else patterns[form]


@dataclass(frozen=True)
class Strided(Composite):
    """The last `stride` positions, and every `stride`-th one.

    A1 = {i - stride <= j <= i}, A2 = {j <= i, (i - j) mod stride = 0}.

    Attributes:
      stride: near the square root of the length.
      form: "merged" (every head sees A1 and A2), "split" (heads take turns), "local" (A1 only) or "far" (A2 only), for
        layers that take turns.
      inclusive: A1 reaches `stride` positions back, as the paper writes it; False: `stride` - 1, so that it holds
        `stride` positions, as in the authors' code. The merged form is the same: A2 has that position in any case.

    Source: Child et al. 2019 (arXiv 1904.10509), section 4.3; its code, openai/sparse_attention.
    """

    stride: int
    form: str = "merged"
    inclusive: bool = True

    def __post_init__(self):
        at_least(1, stride=self.stride)
        self.rule  # noqa: B018 - a wrong form is found out now

    @cached_property
    def rule(self):
        # Merged, the position that makes the difference belongs to A2 alone: the window need not reach another block.
        local = SlidingWindow(self.stride if self.inclusive and self.form != "merged" else self.stride - 1)
        return _in_form(self.form, local, *[SameResidue(self.stride)] * 2)


@dataclass(frozen=True)
class Fixed(Composite):
    """One's own block, and the last cells of the blocks before it, which sum them up.

    A1 = {j <= i, floor(j / block) = floor(i / block)}, A2 = {j <= i, j mod block >= block - summary}.

    Attributes:
      block: positions of a block, near the square root of the length.
      summary: c, cells of a block that later blocks see.
      groups: g; head h sees the u-th c cells from the end of a block, u = h mod g.
      form: as in `Strided`. Under "far" a position also sees itself: the first ones would see nothing otherwise.
      causal: False drops j <= i: a position sees the whole of its block and the summaries of all blocks.

    Source: Child et al. 2019 (arXiv 1904.10509), section 4.3; groups: `num_verts` of the authors' code.
    """

    block: int
    summary: int
    groups: int = 1
    form: str = "merged"
    causal: bool = True

    def __post_init__(self):
        self.rule  # noqa: B018 - wrong sizes are found out now

    @cached_property
    def rule(self):
        at_least(1, block=self.block, summary=self.summary, groups=self.groups)
        if self.summary * self.groups > self.block:
            product = f"summary is {self.summary} and groups {self.groups}: their product"
            raise ValueError(f"{product} must not exceed block = {self.block}")
        turns = [Summary(self.block, self.summary, skip=turn * self.summary) for turn in range(self.groups)]
        far = PerHead(tuple(turns)) if self.groups > 1 else turns[0]
        return _in_form(self.form, BlockWindow(self.block), far, far | SlidingWindow(0), causal=self.causal)


def big_bird(
    block: int, *, n_random: int = 3, n_window: int = 3, n_global: int = 1, among: int | None = None, seed: int = 0
) -> Pattern:
    """Blocks beside one's own, the first blocks, and random blocks.

    Args:
      block: positions of a block.
      n_random: random blocks, of those seen neither as neighbours nor as global ones.
      n_window: neighbouring blocks, one's own in the middle.
      n_global: first blocks, which see and are seen by all.
      among: random blocks are drawn from the first so many; None: from the past.
      seed: of the draws.

    Returns:
      The pattern, which sees both sides: `Causal() & big_bird(...)` is for decoders. The last block, which is global in
      the authors' code too, depends on the length of each example and is left to the layer.

    Source: Zaheer et al. 2020 (arXiv 2007.14062), section 2 and appendix D.
    """
    if n_window < 1 or n_window % 2 == 0:
        raise ValueError(f"n_window is {n_window}: it must be an odd number of at least 1")
    side = n_window // 2
    rules = [BlockWindow(block, side, side)]
    if n_global:
        rules.append(GlobalTokens(n_global * block))
    if n_random:
        rules.append(RandomBlocks(block, n_random, among=among, first=n_global, gap=side, seed=seed))
    return reduce(or_, rules)


def streaming(window: int, sinks: int = 4) -> Pattern:
    """The last `window` positions, oneself included, and the first `sinks`. Source: Xiao et al. 2023 (2309.17453)."""
    at_least(1, window=window)
    at_least(0, sinks=sinks)
    near = SlidingWindow(window - 1)
    return Causal() & (near | Sinks(sinks) if sinks else near)
