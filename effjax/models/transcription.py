"""The likeliest symbols of an utterance: greedily on the device, or by a beam that sums over alignments."""

import functools
import math
from collections import defaultdict
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from effjax.models.speech import CTCModel, Model
from effjax.ops.transducer import BLANK

MOST_PER_FRAME = 4  # symbols that a transducer may write behind one frame


def transcribe(
    model: Model, variables, x: Float[Array, "B T F"], padding_mask: Bool[Array, "B T"]
) -> tuple[Int[Array, "B S"], Int[Array, " B"]]:
    """The symbols of the greedy path, collapsed, and how many there are; a function to be compiled.

    Args:
      model: of either kind.
      variables: its parameters and statistics.
      x: features.
      padding_mask: True at real frames.
    """
    scores, real, _ = model.apply(variables, x, padding_mask=padding_mask)
    if isinstance(model, CTCModel):
        return ctc_greedy(scores, real)
    return transducer_greedy(model, variables, scores, real)


def ctc_greedy(
    scores: Float[Array, "B S V"], padding_mask: Bool[Array, "B S"]
) -> tuple[Int[Array, "B S"], Int[Array, " B"]]:
    """The likeliest symbol of every frame, repetitions and blanks taken out."""
    best = jnp.where(padding_mask, jnp.argmax(scores, -1), BLANK)
    kept = (best != BLANK) & (best != jnp.pad(best, ((0, 0), (1, 0)), constant_values=BLANK)[:, :-1])
    place = jnp.where(kept, jnp.cumsum(kept, 1) - 1, best.shape[1])
    rows = jnp.arange(best.shape[0])[:, None]
    return jnp.zeros_like(best).at[rows, place].set(best, mode="drop"), kept.sum(1)


def transducer_greedy(
    model, variables, frames: Float[Array, "B S J"], padding_mask: Bool[Array, "B S"]
) -> tuple[Int[Array, "B M"], Int[Array, " B"]]:
    """The likeliest symbol at every place of the lattice, at most `MOST_PER_FRAME` of them behind one frame."""
    apply = functools.partial(model.apply, variables)
    batch, length, _ = frames.shape
    rows, lengths = jnp.arange(batch), padding_mask.sum(1)
    carry, prefix = apply(batch, method="start")
    most = length * MOST_PER_FRAME
    start = (jnp.zeros(batch, jnp.int32), jnp.zeros(batch, jnp.int32), carry, prefix)
    start = (*start, jnp.zeros((batch, most), jnp.int32), jnp.zeros(batch, jnp.int32))

    def goes_on(state):
        return jnp.any(state[0] < lengths)

    def step(state):
        time, written, carry, prefix, symbols, count = state
        frame = frames[rows, jnp.minimum(time, length - 1)]
        best = jnp.argmax(apply(frame, prefix, method="joint"), -1).astype(jnp.int32)
        write = (best != BLANK) & (written < MOST_PER_FRAME) & (time < lengths)
        symbols = symbols.at[rows, jnp.where(write, count, most)].set(best, mode="drop")
        grown = apply(carry, best, method="extend")
        choose = lambda new, old: jnp.where(write.reshape(-1, *[1] * (new.ndim - 1)), new, old)
        carry, prefix = jax.tree.map(choose, grown, (carry, prefix))
        ahead = (~write) & (time < lengths)
        return time + ahead, jnp.where(write, written + 1, 0), carry, prefix, symbols, count + write

    *_, symbols, count = jax.lax.while_loop(goes_on, step, start)
    return symbols, count


def ctc_beam(scores: np.ndarray, beam: int, *, candidates: int = 32) -> list[tuple[tuple[int, ...], float]]:
    """Prefix beam search: the likeliest label sequences, each with all its alignments that stay in the beam.

    Args:
      scores: log-probabilities `[S, V]` of the real frames of one utterance.
      beam: prefixes kept.
      candidates: likeliest symbols of a frame that may be appended.

    Returns:
      Pairs of symbols and log-probability, the best one first.

    Source: Hannun et al. 2014 (1408.2873), algorithm 1, without a language model.
    """
    prefixes = {(): (0.0, -math.inf)}  # log-probability of the alignments that end in a blank, and in a label
    for frame in np.asarray(scores, np.float64):
        likely = [int(symbol) for symbol in np.argsort(-frame)[:candidates] if symbol != BLANK]
        grown = _grown(prefixes, frame, likely)
        best = sorted(grown, key=lambda prefix: -np.logaddexp(*grown[prefix]))[:beam]
        prefixes = {prefix: grown[prefix] for prefix in best}
    return [(prefix, float(np.logaddexp(*pair))) for prefix, pair in prefixes.items()]


def _grown(prefixes, frame, likely):
    """The prefixes after one more frame, with the log-probabilities of their two endings."""
    grown = defaultdict(lambda: (-math.inf, -math.inf))
    for prefix, (blank, label) in prefixes.items():
        both = np.logaddexp(blank, label)
        in_blank, in_label = grown[prefix]
        if prefix:
            in_label = np.logaddexp(in_label, label + frame[prefix[-1]])
        grown[prefix] = np.logaddexp(in_blank, both + frame[BLANK]), in_label
        for symbol in likely:
            before = blank if prefix and symbol == prefix[-1] else both  # equal labels need a blank between
            if before > -math.inf:
                in_blank, in_label = grown[(*prefix, symbol)]
                grown[(*prefix, symbol)] = in_blank, np.logaddexp(in_label, before + frame[symbol])
    return grown


class TransducerBeam:
    """Time-synchronous beam search of a transducer; prefixes that meet at a frame are summed.

    Args:
      model: a transducer.
      variables: its parameters and statistics.
      beam: prefixes kept at every frame.
      most_per_frame: symbols that may be written behind one frame.

    Source: Graves 2012 (1211.3711), section 2.6; one set of expansions a symbol, as in Saon et al. 2020.
    """

    def __init__(self, model, variables, beam: int, *, most_per_frame: int = MOST_PER_FRAME):
        self.beam, self.most = beam, most_per_frame
        self._start = jax.jit(lambda: model.apply(variables, 1, method="start"))

        @jax.jit
        def scores(frame, prefixes):
            return model.apply(variables, jnp.broadcast_to(frame, prefixes.shape), prefixes, method="joint")

        @jax.jit
        def extend(carry, labels):
            return model.apply(variables, carry, labels, method="extend")

        self._scores, self._extend = scores, extend

    def __call__(self, frames: np.ndarray) -> list[tuple[tuple[int, ...], float]]:
        """Pairs of symbols and log-probability for the real frames `[S, J]` of one utterance, the best one first."""
        first = jax.tree.map(lambda x: np.asarray(x[0]), self._start())
        known = {(): first}  # of every prefix, the state of the prediction network and what it says
        alive = {(): 0.0}
        for frame in frames:
            open_prefixes, ended = alive, {}
            for round_ in range(self.most + 1):
                grown = {}
                for prefix, score, nats in self._rows(open_prefixes, frame, known):
                    ended[prefix] = np.logaddexp(ended.get(prefix, -math.inf), score + nats[BLANK])
                    if round_ < self.most:
                        for symbol in np.argsort(-nats)[: self.beam + 1]:
                            if symbol != BLANK:
                                grown[(*prefix, int(symbol))] = score + nats[symbol]
                open_prefixes = dict(sorted(grown.items(), key=lambda item: -item[1])[: self.beam])
                self._learn(open_prefixes, known)
            alive = dict(sorted(ended.items(), key=lambda item: -item[1])[: self.beam])
            known = {prefix: known[prefix] for prefix in alive}
        return [(prefix, float(score)) for prefix, score in alive.items()]

    def _rows(self, prefixes, frame, known) -> Iterator[tuple[tuple[int, ...], float, np.ndarray]]:
        if prefixes:
            said = np.stack([known[prefix][1] for prefix in prefixes])
            nats = np.asarray(self._scores(frame, self._filled(said)), np.float64)
            yield from zip(prefixes, prefixes.values(), nats)

    def _learn(self, prefixes, known) -> None:
        """Runs the prediction network for the prefixes that are new."""
        new = [prefix for prefix in prefixes if prefix not in known]
        if new:
            carry = jax.tree.map(lambda *leaves: self._filled(np.stack(leaves)), *(known[p[:-1]][0] for p in new))
            labels = self._filled(np.array([prefix[-1] for prefix in new], np.int32))
            results = jax.device_get(self._extend(carry, labels))
            for row, prefix in enumerate(new):
                known[prefix] = jax.tree.map(lambda x, row=row: x[row], results)

    def _filled(self, rows: np.ndarray) -> np.ndarray:
        """`beam` rows, the last one repeated, so that every call has one shape."""
        return np.concatenate([rows, np.repeat(rows[-1:], self.beam - len(rows), axis=0)])
