"""Utterances as examples: sound or features and the symbols of what is said, in batches of one shape."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from effjax.errors import UserError

TRIES = 8  # utterances considered for the rest of a row


@dataclass(frozen=True)
class Utterance:
    """One recording.

    Args:
      name: for errors.
      speaker: who speaks.
      transcript: what is said, in words with a space between.
      length: samples, or frames of features.
      read: gives them, `[length]` or `[length, F]`, float32.
    """

    name: str
    speaker: str
    transcript: str
    length: int
    read: Callable[[], np.ndarray]


class Units:
    """The symbols of transcripts: characters, or whole words where one of them is longer. Id 0 is the blank.

    Args:
      symbols: different ones.

    Raises:
      UserError: no symbols, or one that is there twice.
    """

    def __init__(self, symbols: Sequence[str]):
        self.symbols, self.of_words = tuple(symbols), any(len(symbol) > 1 for symbol in symbols)
        if not self.symbols or len(set(self.symbols)) < len(self.symbols):
            raise UserError(f"config.options.units={symbols!r}; different symbols, one or more, are allowed")
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols, 1)}
        self.size = len(self.symbols) + 1

    def encode(self, transcript: str, name: str) -> np.ndarray:
        """The ids of a transcript, int32.

        Raises:
          UserError: an empty transcript, or a symbol that is not among the units.
        """
        words = transcript.split()
        if not words:
            raise UserError(f"{name}: the transcript is empty")
        parts = words if self.of_words else " ".join(words)
        for part in parts:
            if part not in self._ids:
                raise UserError(f"{name}: {part!r} in the transcript {transcript!r} is none of the units")
        return np.array([self._ids[part] for part in parts], np.int32)

    def decode(self, ids) -> str:
        """The text of ids, blanks left out."""
        parts = [self.symbols[i - 1] for i in ids if i > 0]
        return " ".join(parts) if self.of_words else " ".join("".join(parts).split())

    def join(self, rows: list[np.ndarray]) -> np.ndarray:
        """One transcript behind the other."""
        space = [] if self.of_words or " " not in self._ids else [np.array([self._ids[" "]], np.int32)]
        parts = [part for row in rows for part in (*space, row)]
        return np.concatenate(parts[len(space) :])


class UtteranceExamples:
    """Utterances as batches: `inputs` `[b, L]` or `[b, L, F]`, `input_lengths` `[b]`, `labels` `[b, U]`,
    `label_lengths` `[b]`.

    Args:
      utterances: what to read.
      units: symbols of the transcripts.
      length: L, samples or frames.
      labels: U.
      fill: rows of training batches go on with other utterances of the same speaker, drawn at random, as long as they
        fit, so that little of a batch is padding.
      drop_longer: leave utterances out that do not fit, and say how many; else they are an error.
      report: is told of those left out.

    Raises:
      UserError: an utterance that does not fit, an empty transcript, or a symbol outside the units.
    """

    def __init__(
        self,
        utterances: list[Utterance],
        units: Units,
        *,
        length: int,
        labels: int,
        fill: bool = False,
        drop_longer: bool = False,
        report: Callable[[str], None] = print,
    ):
        self.units, self.length, self.most_labels, self.fill = units, length, labels, fill
        self.utterances, self.labels, longer = [], [], []
        for utterance in utterances:
            ids = units.encode(utterance.transcript, utterance.name)
            if utterance.length > length or len(ids) > labels:
                if not drop_longer:
                    raise UserError(
                        f"{utterance.name}: {utterance.length} samples or frames and {len(ids)} labels; "
                        f"length={length} and labels={labels} (config.options; of splits that are scored scored_length "
                        "and scored_labels, where given) are the most allowed"
                    )
                longer.append(utterance.name)
                continue
            self.utterances.append(utterance)
            self.labels.append(ids)
        if longer:
            report(
                f"{len(longer)} of {len(utterances)} utterances are longer than config.options.length={length} or have "
                f"more labels than config.options.labels={labels} and are left out, the first is {longer[0]}"
            )
        self._of_speaker = defaultdict(list)
        for i, utterance in enumerate(self.utterances):
            self._of_speaker[utterance.speaker].append(i)

    def __len__(self) -> int:
        return len(self.utterances)

    def batch(self, indices: np.ndarray, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        rows = [self.row(int(i), rng) for i in indices]
        width = rows[0][0].shape[1:]
        inputs = np.zeros((len(rows), self.length, *width), np.float32)
        labels = np.zeros((len(rows), self.most_labels), np.int32)
        for i, (sound, ids) in enumerate(rows):
            inputs[i, : len(sound)] = sound
            labels[i, : len(ids)] = ids
        lengths = lambda part: np.array([len(row[part]) for row in rows], np.int32)
        return {"inputs": inputs, "input_lengths": lengths(0), "labels": labels, "label_lengths": lengths(1)}

    def row(self, index: int, rng: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
        """The sound and the labels of a row."""
        members = [index]
        if self.fill and rng is not None:
            others = self._of_speaker[self.utterances[index].speaker]
            for other in rng.choice(others, TRIES):
                if self.fits([*members, int(other)]):
                    members.append(int(other))
        sound = np.concatenate([self.sound(i) for i in members])
        return sound, self.units.join([self.labels[i] for i in members])

    def fits(self, members: list[int]) -> bool:
        """Whether these utterances fit into one row."""
        length = sum(self.utterances[i].length for i in members)
        return length <= self.length and sum(len(self.labels[i]) + 1 for i in members) <= self.most_labels

    def sound(self, index: int) -> np.ndarray:
        """The samples or features of an utterance."""
        utterance = self.utterances[index]
        sound = utterance.read()
        if len(sound) != utterance.length:
            raise UserError(f"{utterance.name} holds {len(sound)} samples or frames, {utterance.length} were announced")
        return sound
