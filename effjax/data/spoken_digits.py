"""Connected digits: strings of recordings of the Free Spoken Digit Dataset, one speaker each, with pauses between."""

import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from effjax.data.sound_files import Files, read_sound
from effjax.errors import UserError

SAMPLE_RATE = 8_000
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SAMPLE = Path(__file__).parent / "sample" / "spoken_digits"
# Takes 0 to 4 of every digit and speaker are the official test set; the next five are held out here for validation.
TAKES = {"test": range(5), "valid": range(5, 10), "train": range(10, 1_000_000)}
PAUSE = (0.05, 0.20)  # seconds
STRINGS = {"train": 3000, "valid": 200, "test": 300}  # an epoch, and the strings that are scored


class DigitStrings:
    """Strings of digits as examples: those of a training batch are drawn anew each time, those that are scored are
    functions of their number.

    Args:
      recordings: samples by speaker and digit.
      digits: least and greatest number of digits of a string.
      length: samples of a row; a string ends before the digit that does not fit.
      labels: of a row.
      count: strings.
      seed: of the strings that are scored.

    Raises:
      UserError: rows that do not hold the greatest number of labels, or not the longest recording.
    """

    def __init__(self, recordings, *, digits: tuple[int, int], length: int, labels: int, count: int, seed: int):
        self.recordings, self.digits, self.length, self.labels = recordings, digits, length, labels
        self.count, self.seed = count, seed
        longest = max(len(take) for speaker in recordings.values() for takes in speaker.values() for take in takes)
        if not 1 <= digits[0] <= digits[1] <= labels or longest > length:
            raise UserError(
                f"config.options.digits={digits}: 1 or more, ascending and at most config.options.labels={labels} is "
                f"allowed, with config.options.length={length} of at least {longest} samples, the longest recording"
            )

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: np.ndarray, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        inputs = np.zeros((len(indices), self.length), np.float32)
        labels = np.zeros((len(indices), self.labels), np.int32)
        lengths = np.zeros((2, len(indices)), np.int32)
        for row, index in enumerate(indices):
            sound, ids = self.string(rng or np.random.default_rng((self.seed, int(index))))
            inputs[row, : len(sound)], labels[row, : len(ids)] = sound, ids
            lengths[:, row] = len(sound), len(ids)
        return {"inputs": inputs, "input_lengths": lengths[0], "labels": labels, "label_lengths": lengths[1]}

    def string(self, rng: np.random.Generator) -> tuple[np.ndarray, list[int]]:
        """The samples of a string and its labels, digit + 1."""
        speaker = self.recordings[list(self.recordings)[rng.integers(len(self.recordings))]]
        digits, sound, labels = list(speaker), np.zeros(0, np.float32), []
        for _ in range(rng.integers(self.digits[0], self.digits[1] + 1)):
            digit = digits[rng.integers(len(digits))]
            take = speaker[digit][rng.integers(len(speaker[digit]))]
            pause = np.zeros(round(rng.uniform(*PAUSE) * SAMPLE_RATE) if labels else 0, np.float32)
            if len(sound) + len(pause) + len(take) > self.length:
                break
            sound, labels = np.concatenate([sound, pause, take]), [*labels, digit + 1]
        return sound, labels


def digit_recordings(path: str) -> dict[str, dict[str, dict[int, list[np.ndarray]]]]:
    """Samples by split, speaker and digit, from files named `{digit}_{speaker}_{take}.wav`.

    Args:
      path: a folder or tar archive; empty: the few recordings in the package.

    Raises:
      UserError: no recordings in one of the splits, or one that cannot be read.
    """
    files = Files(path or str(SAMPLE))
    splits = {split: defaultdict(lambda: defaultdict(list)) for split in TAKES}
    for name in files.names(".wav"):
        match = re.fullmatch(r"([0-9])_(\w+)_(\d+)\.wav", name.rsplit("/", 1)[-1])
        if not match:
            raise UserError(f"{files.root}: {name} is not named DIGIT_SPEAKER_TAKE.wav")
        split = next(split for split, takes in TAKES.items() if int(match[3]) in takes)
        sound = read_sound(files.read(name), f"{files.root}: {name}", SAMPLE_RATE)
        splits[split][match[2]][int(match[1])].append(sound)
    for split, speakers in splits.items():
        if not speakers:
            raise UserError(f"{files.root} holds no recordings for the {split} split")
    return {split: {name: dict(digits) for name, digits in speakers.items()} for split, speakers in splits.items()}
