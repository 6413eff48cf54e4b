"""Patterns: what each rule allows, against the originals' masks, the papers' formulas, and its own parts and bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.ops.patterns import (
    BlockWindow,
    Causal,
    Everything,
    Fixed,
    GlobalTokens,
    LogSparse,
    PerHead,
    RandomBlocks,
    SameResidue,
    Sinks,
    SlidingWindow,
    Span,
    Strided,
    Summary,
    big_bird,
    from_mask,
    streaming,
)
from tests.goldens.load import load

HEADS, LENGTH = 3, 61
PATTERNS = {
    "everything": Everything(),
    "causal": Causal(),
    "window": SlidingWindow(5),
    "dilated window": SlidingWindow(3, dilation=4),
    "dilated per head": PerHead((SlidingWindow(4), Causal() & SlidingWindow(4, dilation=3))),
    "block window": BlockWindow(7, before=2, after=1),
    "global": SlidingWindow(4) | GlobalTokens(3),
    "global positions": GlobalTokens((0, 17, 18, 40)) & Causal(),
    "sinks": streaming(6, sinks=2),
    "strided": Strided(8),
    "strided, heads split": Strided(8, form="split"),
    "strided, heads split, as in the code": Strided(8, form="split", inclusive=False),
    "fixed": Fixed(8, 2),
    "fixed, heads in groups": Fixed(12, 3, groups=3),
    "fixed, summary only": Fixed(8, 3, form="far"),
    "log-sparse": LogSparse(),
    "log-sparse, local": LogSparse(local=4),
    "log-sparse, local and restart": LogSparse(local=3, restart=20),
    "random blocks": RandomBlocks(4, 2, first=1, gap=1),
    "random blocks on both sides": RandomBlocks(4, 3, among=12, seed=7),
    "big bird": big_bird(4, n_random=2, among=15),
    "big bird, causal": Causal() & big_bird(4, n_random=2),
    "strided within a window": Strided(4) & SlidingWindow(30),
    "two orders": SlidingWindow(2, dilation=5) | SameResidue(7) | Summary(9, 2),
    "not": ~LogSparse() & Causal(),
    "mask": from_mask(np.random.default_rng(0).random((HEADS, 50, 50)) < 0.2),
}
every_pattern = pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)


def dense(pattern, length=LENGTH, heads=HEADS):
    return np.stack([pattern.dense(length, head) for head in range(heads)])


@every_pattern
def test_traced_positions_give_what_numpy_gives(pattern):
    """As a stream evaluates it: heads, queries and keys at once, from traced positions."""
    query, key, head = jnp.arange(LENGTH)[:, None], jnp.arange(LENGTH), jnp.arange(HEADS)[:, None, None]
    allowed = jax.jit(pattern.allows)(query, key, head)
    assert np.array_equal(np.broadcast_to(allowed, (HEADS, LENGTH, LENGTH)), dense(pattern))


@every_pattern
def test_parts_are_a_disjoint_union(pattern):
    query, key = np.ogrid[:LENGTH, :LENGTH]
    for head in range(HEADS):
        times = np.zeros((LENGTH, LENGTH), int)
        for part in pattern.parts(head):
            columns = True if part.keys is None else key % part.keys.period >= part.keys.start
            times += part.rule.allows(query, key, head) & columns
        assert np.array_equal(times, pattern.dense(LENGTH, head))


@every_pattern
def test_heads_that_follow_one_rule_ask_for_one_layout(pattern):
    """Only the random draws look at the head once a head's own rule is known; equal rules are equal objects."""
    by_head = lambda rule: np.shape(rule.allows(*np.zeros((2, 1, 1, 1), int), np.arange(4)[:, None, None]))[0] > 1
    random = "RandomBlocks" in repr(pattern)
    assert any(by_head(part.rule) for part in pattern.parts(1)) == random
    assert hash(pattern.parts(1)) == hash(pattern.parts(1)) and pattern.parts(1) == pattern.parts(1)


def spans(first, size, step):
    return Span(first, first + (size - 1) * step, step)


@every_pattern
@pytest.mark.parametrize("step", [1, 4, 8])
def test_bounds_never_err_on_the_unsafe_side(pattern, step):
    rng = np.random.default_rng(1)
    for head in range(2):
        for size_q, size_k in ((1, 1), (3, 4), (8, 8), (5, 2)):
            first_q, first_k = rng.integers(0, LENGTH, (2, 30))
            for rule in (pattern, *(part.rule for part in pattern.parts(head))):
                query, key = spans(first_q[:, None], size_q, step), spans(first_k, size_k, step)
                some, every = (np.broadcast_to(x, (30, 30)) for x in rule.bounds(query, key, head))
                inside_q = (first_q[:, None] + step * np.arange(size_q))[:, None, :, None]
                inside_k = (first_k[:, None] + step * np.arange(size_k))[None, :, None, :]
                pairs = np.broadcast_to(rule.allows(inside_q, inside_k, head), (30, 30, size_q, size_k))
                assert some[pairs.any((2, 3))].all()
                assert pairs.all((2, 3))[every].all()


@pytest.mark.parametrize(
    "name, order, block",
    [
        ("causal", 1, 8),
        ("sinks", 1, 4),
        ("global", 1, 8),
        ("log-sparse", 1, 8),
        ("log-sparse, local and restart", 1, 4),
        ("random blocks", 1, 8),
        ("strided", 8, 4),
        ("dilated window", 4, 4),
    ],
)
def test_bounds_find_the_blocks_that_are_empty(name, order, block):
    """Where a part is block-local: no block in its order is visited for nothing."""
    length = 256
    for part in PATTERNS[name].parts(1):
        if part.order == order:
            positions = np.arange(length).reshape(-1, order).T.reshape(-1, block)
            blocks = Span(positions[:, 0], positions[:, -1], order)
            query, key = Span(*(x[:, None] if np.ndim(x) else x for x in blocks)), blocks
            some, _ = part.rule.bounds(query, key, 1)
            pairs = part.rule.allows(positions[:, None, :, None], positions[None, :, None, :], 1)
            if name != "sinks":  # the union of window and sinks is cut by causality as a whole
                assert np.array_equal(np.broadcast_to(some, pairs.shape[:2]), pairs.any((2, 3)))
            else:
                assert np.sum(some) <= pairs.any((2, 3)).sum() + len(positions)
            return
    raise AssertionError(f"{name} has no part of order {order}")


def reach(*steps):
    """Which positions reach which through layers of attention, one after another."""
    reached = np.eye(len(steps[0]), dtype=bool)
    for step in steps:
        reached = step @ reached
    return reached


def lower(length):
    return np.tri(length, dtype=bool)


@pytest.mark.parametrize("inclusive", [True, False], ids=["paper", "code"])
@pytest.mark.parametrize("length", [64, 50, 33])
def test_strided_reaches_everything_in_two_steps_in_either_order(length, inclusive):
    local, far = (Strided(8, form=form, inclusive=inclusive).dense(length) for form in ("local", "far"))
    assert np.array_equal(reach(local, far), lower(length))
    assert np.array_equal(reach(far, local), lower(length))


@pytest.mark.parametrize("length", [64, 50, 33])
@pytest.mark.parametrize("summary", [1, 3])
def test_fixed_reaches_everything_in_two_steps_as_a_union_only(length, summary):
    local, far, both = (Fixed(8, summary, form=form).dense(length) for form in ("local", "far", "merged"))
    assert np.array_equal(both, local | far)
    assert np.array_equal(reach(both, both), lower(length))
    summaries = (Causal() & Summary(8, summary)).dense(length)  # the paper's A2: its first rows are empty
    assert not summaries[: 8 - summary].any() and np.array_equal(far, summaries | np.eye(length, dtype=bool))
    assert not np.array_equal(reach(local, summaries), lower(length))
    assert not np.array_equal(reach(far, local), lower(length))


def test_a_union_that_covers_the_length_is_causal():
    assert np.array_equal(Strided(40).dense(40), lower(40))
    assert np.array_equal(Fixed(40, 3).dense(40), lower(40))
    assert np.array_equal(LogSparse(local=40).dense(40), lower(40))
    assert np.array_equal(streaming(40, sinks=0).dense(40), lower(40))


def test_row_counts_of_the_sparse_transformer():
    i = np.arange(LENGTH)
    count = lambda pattern: pattern.dense(LENGTH).sum(1).tolist()
    assert count(Strided(8, form="local")) == np.minimum(i + 1, 9).tolist()  # the paper's i - l <= j
    assert count(Strided(8, form="local", inclusive=False)) == np.minimum(i + 1, 8).tolist()  # the code's i - l < j
    assert count(Strided(8, form="far")) == (i // 8 + 1).tolist()
    assert count(Fixed(8, 2, form="local")) == (i % 8 + 1).tolist()
    assert np.array_equal(Strided(8).dense(LENGTH), Strided(8, inclusive=False).dense(LENGTH))


def test_heads_take_turns():
    """Split heads use one part each, merged ones both; layers that take turns use one form each."""
    for make in (lambda form: Strided(8, form=form), lambda form: Fixed(8, 2, form=form)):
        local, far = (make(form).dense(LENGTH) for form in ("local", "far"))
        split, merged = dense(make("split"), heads=4), dense(make("merged"), heads=2)
        assert np.array_equal(split, np.stack([local, far, local, far]))
        assert np.array_equal(merged, np.stack([local | far] * 2))


def test_every_query_sees_itself():
    published = ("sinks", "strided", "strided, heads split", "strided, heads split, as in the code")
    published += ("fixed", "fixed, heads in groups", "fixed, summary only")
    for name in (*published, "log-sparse", "log-sparse, local and restart", "big bird", "big bird, causal"):
        assert dense(PATTERNS[name]).diagonal(axis1=1, axis2=2).all()


def test_log_sparse_rows_are_the_formula():
    rows = LogSparse().dense(200)
    for l in range(1, 201):  # positions count from 1
        terms = {l} | {l - 2**m for m in range(int(np.floor(np.log2(l))) + 1)}
        terms = {term for term in terms if term > 0}
        assert set(np.flatnonzero(rows[l - 1]) + 1) == terms
        assert len(terms) <= np.floor(np.log2(l)) + 2
        assert {l, max(l - 1, 1)} <= terms


def test_log_sparse_reaches_all_of_its_past_in_log_steps():
    for length in (1, 2, 3, 31, 32, 33, 100, 200):
        steps = max(int(np.floor(np.log2(length))), 1)
        assert np.array_equal(reach(*[LogSparse().dense(length)] * steps), lower(length))


def test_log_sparse_with_local_window_and_restart():
    row = LogSparse(local=3, restart=20).dense(60)[59][::-1]  # by distance
    within = [0, 1, 2, 2 + 1, 2 + 2, 2 + 4, 2 + 8, 2 + 16]
    assert np.flatnonzero(row).tolist() == [start + d for start in (0, 20, 40) for d in within]
    assert np.flatnonzero(LogSparse(local=4).dense(60)[59][::-1]).tolist() == [0, 1, 2, 3, 4, 5, 7, 11, 19, 35]


def test_random_blocks_do_not_depend_on_the_length():
    pattern = RandomBlocks(4, 3, among=40)
    assert np.array_equal(dense(pattern, 160)[:, :37, :37], dense(pattern, 37))
    past = Causal() & big_bird(4)
    assert np.array_equal(dense(past, 160)[:, :37, :37], dense(past, 37))


def test_random_blocks_are_different_blocks_from_where_they_may_come():
    blocks, count = 64, 3
    cells = lambda pattern, head: pattern.dense(4 * blocks, head)[::4, ::4]
    past = RandomBlocks(4, count, first=2, gap=1)
    for head in range(2):
        drawn = cells(past, head)
        allowed = np.tri(blocks, k=-2, dtype=bool)
        allowed[:, :2] = False
        assert not (drawn & ~allowed).any()
        assert np.array_equal(drawn.sum(1), np.minimum(allowed.sum(1), count))
    both = cells(RandomBlocks(4, count, among=blocks, gap=1), 0)
    assert (both.sum(1) == count).all()
    assert not (both & (np.abs(np.subtract.outer(np.arange(blocks), np.arange(blocks))) <= 1)).any()
    assert not np.array_equal(both, cells(RandomBlocks(4, count, among=blocks, gap=1), 1))
    assert not np.array_equal(both, cells(RandomBlocks(4, count, among=blocks, gap=1, seed=1), 0))


def test_random_blocks_are_drawn_alike():
    """Chi-squared of how often each of 20 candidates is drawn, 6,000 draws: 19 degrees of freedom, mean 19."""
    pattern = RandomBlocks(1, 3, among=21)
    drawn = pattern.allows(np.zeros((1, 1), int), np.arange(1, 21), np.arange(2000)[:, None])
    times = drawn.sum(0)
    expected = 2000 * 3 / 20
    assert times.sum() == 6000
    assert ((times - expected) ** 2 / expected).sum() < 45  # one in a thousand is above 43.8


class TestAgainstTheOriginals:
    """openai/sparse_attention at n = 32, ctx = 8, blocks of 4."""

    golden = load("openai_sparse_attention")

    @pytest.mark.parametrize(
        "mode, pattern",
        [
            ("all", Causal()),
            ("local", Strided(8, form="local", inclusive=False)),
            ("strided", Strided(8, form="far", inclusive=False)),
        ],
    )
    def test_position_masks(self, mode, pattern):
        assert np.array_equal(pattern.dense(32), self.golden["outputs"]["mask"][mode] == 1)

    @pytest.mark.parametrize(
        "mode, pattern",
        [
            ("all", Causal()),
            ("local", Strided(8, form="local", inclusive=False)),
            ("strided", Strided(8, form="far", inclusive=False)),
            ("fixed_v1_s1", Fixed(8, 4)),
            ("fixed_v2_s1", Fixed(8, 4, groups=2)),
            ("fixed_v1_s2", Fixed(8, 8)),
        ],
    )
    def test_block_masks_and_layouts(self, mode, pattern):
        order = self.golden["inputs"]["strided_order"] if mode == "strided" else np.arange(32)
        ours = dense(pattern, 32, heads=4)[:, order][:, :, order]
        assert np.array_equal(ours, self.golden["outputs"]["block_mask"][mode] == 1)
        blocks = ours.reshape(4, 8, 4, 8, 4).any((2, 4))
        assert np.array_equal(blocks, self.golden["outputs"]["block_layout"][mode] == 1)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: SlidingWindow(-1), "window is -1"),
        (lambda: SlidingWindow(4, 0), "dilation is 0"),
        (lambda: BlockWindow(0), "block is 0"),
        (lambda: GlobalTokens(0), "tokens is 0"),
        (lambda: GlobalTokens((3, -1)), r"tokens is \(3, -1\)"),
        (lambda: Sinks(0), "count is 0"),
        (lambda: PerHead(()), r"patterns is \(\)"),
        (lambda: Strided(0), "stride is 0"),
        (lambda: Strided(8, form="both"), "form is 'both': it must be one of merged, split, local, far"),
        (lambda: Fixed(8, 9), "summary is 9 and groups 1: their product must not exceed block = 8"),
        (lambda: Fixed(8, 0), "summary is 0"),
        (lambda: Fixed(8, 4, groups=3), "groups 3"),
        (lambda: Summary(8, 4, skip=5), "size is 4 and skip 5: together at most block = 8"),
        (lambda: LogSparse(0), "local is 0"),
        (lambda: LogSparse(4, restart=3), "restart is 3: it must be None or at least local = 4"),
        (lambda: RandomBlocks(4, 0), "count is 0"),
        (lambda: RandomBlocks(4, 2, among=2, first=2), "among is 2"),
        (lambda: big_bird(4, n_window=2), "n_window is 2: it must be an odd number"),
        (lambda: streaming(0), "window is 0"),
        (lambda: from_mask(np.ones(3, bool)), r"array has shape \(3,\)"),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
