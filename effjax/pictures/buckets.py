"""LSH attention on a real text: the bucket of every position in every round, and which pairs meet."""

import numpy as np

from effjax.layers import LSHAttention
from effjax.ops.hashing import default_n_buckets, total_buckets
from effjax.pictures.figure import NOBODY, PALE, PALETTE, Picture, add_legend, draw_pairs, new_figure
from effjax.pictures.subject import Subject

MOST_HEADS = 4
KINDS = {
    "one bucket, and they meet": PALETTE[0],
    "different buckets, but they meet in a chunk": PALE,
    "one bucket, kept apart by the chunks": PALETTE[4],
    "never together": NOBODY,
}


def draw_buckets(subject: Subject, name: str) -> list[Picture]:
    """Buckets and meetings of every layer of LSH attention, on the subject's text."""
    pictures = []
    for block in subject.blocks(name):
        mixer = subject.mixers[block]
        if not isinstance(mixer, LSHAttention):
            return []
        for layer, buckets in zip(subject.layers(block), np.asarray(subject.inside[block]["choices"])):
            pictures.append(Picture(f"{name}_layer_{layer:02d}", _figure(subject, name, mixer, layer, buckets[0])))
    return pictures


def _figure(subject, name, mixer, layer, buckets):
    """One row for each head: buckets [T, N, R] on the left, pairs on the right."""
    length, n_heads, rounds = buckets.shape
    n_buckets = total_buckets(mixer.n_buckets or default_n_buckets(length, mixer.chunk_size))
    heads = min(n_heads, MOST_HEADS)
    shown = f", {heads} of {n_heads} heads" if heads < n_heads else ""
    settings = f"{rounds} rounds, {n_buckets} buckets, chunks of {mixer.chunk_size}{shown}, {subject.origin}"
    title = f"{name}, layer {layer}: who hashes to where, and who meets whom\n{settings}\n{subject.text}"
    figure = new_figure(11, 4.3 * heads + 1.2, title)
    grid = figure.add_gridspec(heads, 2, width_ratios=(1.35, 1))
    positions, band = np.arange(length), n_buckets * 1.12
    for head in range(heads):
        left, right = figure.add_subplot(grid[head, 0]), figure.add_subplot(grid[head, 1])
        for turn in range(rounds):
            y = turn * band + buckets[:, head, turn]
            left.scatter(positions, y, s=6, color=PALETTE[turn % len(PALETTE)], linewidths=0)
            if turn:
                left.axhline(turn * band - (band - n_buckets) / 2 - 0.5, color="#BBBBBB", linewidth=0.8)
        middle = [turn * band + (n_buckets - 1) / 2 for turn in range(rounds)]
        left.set_yticks(middle, [f"round {turn + 1}" for turn in range(rounds)], fontsize=8)
        left.set_ylim(rounds * band - (band - n_buckets) / 2, -1 - (band - n_buckets) / 2)
        left.set_ylabel(f"head {head + 1}: buckets 0 to {n_buckets - 1}, from above", fontsize=9)
        left.tick_params(axis="x", labelsize=7)
        left.set_xlim(-2, length + 1)
        left.spines[["top", "right"]].set_visible(False)

        kinds = pair_kinds(
            buckets[:, head],
            chunk_size=mixer.chunk_size,
            look_back=mixer.look_back,
            same_bucket=mixer.same_bucket,
            causal=mixer.causal,
        )
        draw_pairs(right, kinds, list(KINDS.values())[:3], positions, positions)
        right.set_title(f"head {head + 1}: {_shares(kinds, mixer.causal)}", fontsize=8.5)
        right.set_ylabel("query position", fontsize=8.5)
        if head == heads - 1:
            left.set_xlabel("position", fontsize=8.5)
            right.set_xlabel("key position", fontsize=8.5)
    add_legend(figure, KINDS, KINDS.values(), ncols=4)
    return figure


def pair_kinds(buckets: np.ndarray, *, chunk_size: int, look_back: str, same_bucket: bool, causal: bool) -> np.ndarray:
    """What becomes of every pair of positions in LSH attention.

    Args:
      buckets: `[T, R]`, of every position in every round.
      chunk_size, look_back, same_bucket, causal: see `effjax.ops.lsh.lsh_attention`.

    Returns:
      int8 `[queries, keys]`: 1 in one bucket, and they meet in a chunk of that round; 2 they meet, but in no round as
      members of one bucket; 3 in one bucket of some round, but they never meet; 0 none of these, or in the future.
    """
    length, rounds = buckets.shape
    size = min(chunk_size, length)
    last = -(-length // size) - 1
    order = np.argsort(buckets, axis=0, kind="stable")
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(length)[:, None], axis=0)
    chunks = places // size
    together, met, share = (np.zeros((length, length), bool) for _ in range(3))
    for turn in range(rounds):
        own, alike = chunks[:, turn], buckets[:, None, turn] == buckets[None, :, turn]
        meet = own[:, None] == own[None]
        if look_back != "none":
            meet |= own[:, None] == own[None] + 1
        seam = np.zeros_like(meet)
        if look_back == "circular":
            seam = (own[:, None] == 0) & (chunks[None, :, turn - 1] == last)
        if rounds == 1:  # the round before is the same one, and its buckets too
            meet, seam = meet | seam, np.zeros_like(seam)
        if same_bucket:  # buckets of different rounds have nothing in common
            meet, seam = meet & alike, np.zeros_like(seam)
        share |= alike
        together |= meet & alike
        met |= meet | seam
    kinds = np.select([together, met, share], [1, 2, 3]).astype(np.int8)
    return np.tril(kinds) if causal else kinds


def _shares(kinds, causal):
    """Which share of the pairs meet, and of those in one bucket do not."""
    others = np.tri(len(kinds), k=-1, dtype=bool) if causal else ~np.eye(len(kinds), dtype=bool)
    counts = np.bincount(kinds[others], minlength=4)
    meet, sharing = (counts[1] + counts[2]) / max(counts.sum(), 1), counts[1] + counts[3]
    apart = counts[3] / sharing if sharing else 0.0
    return f"{meet:.0%} of the pairs meet; of those in one bucket, {apart:.0%} do not"
