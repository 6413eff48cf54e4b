"""Which utterances a speech configuration reads, and the one file that a prediction is made of."""

from typing import Any

import numpy as np
from etils import epath

from effjax.data.an4 import an4, read_cepstra
from effjax.data.librispeech import librispeech
from effjax.data.sound_files import read_sound
from effjax.data.spoken_digits import STRINGS, WORDS, DigitStrings, digit_recordings
from effjax.data.utterances import Units, UtteranceExamples
from effjax.errors import UserError

NAMES = ("an4", "an4_mfcc", "librispeech", "spoken_digits", "spoken_digits_sample")
SPLITS = ("train", "valid", "test")


class SpeechData:
    """The corpus of a configuration, opened when first read.

    Args:
      config: `data.name` is one of an4 (sound), an4_mfcc (features), librispeech, spoken_digits or
        spoken_digits_sample (a few recordings in the package); `data.path` a folder or archive; `options` as in
        `effjax.tasks.speech`.
      units: of the transcripts.

    Raises:
      UserError: an unknown corpus, or units or a front end that do not fit it.
    """

    def __init__(self, config, units: Units):
        self.config, self.units, self._read = config, units, {}
        name, options = config.data.name, config.options
        if name not in NAMES:
            raise UserError(f"config.data.name={name!r}; one of {', '.join(NAMES)} is allowed")
        needed = "features" if name == "an4_mfcc" else "log_mel"
        if options.front_end != needed:
            raise UserError(f"config.options.front_end={options.front_end!r}; {name} needs {needed!r}")
        if self.of_digits and tuple(options.units) != WORDS:
            raise UserError(f"config.options.units={options.units!r}; {name} needs {WORDS}")
        rate = 8_000 if self.of_digits else 16_000
        if options.sample_rate != rate:
            raise UserError(f"config.options.sample_rate={options.sample_rate}; {name} has {rate}")
        others = ("valid_other", "test_other") if name == "librispeech" else ()
        self.splits = (*SPLITS, *others)

    @property
    def of_digits(self) -> bool:
        return self.config.data.name.startswith("spoken_digits")

    def examples(self, split: str) -> Any:
        """The examples of a split."""
        if split not in self._read:
            if self.of_digits:
                self._read |= self._digit_strings()
            else:
                self._read |= self._utterances()
        if split not in self._read:
            raise UserError(f"{self.config.data.path} holds nothing of the {split} split")
        return self._read[split]

    def _digit_strings(self) -> dict[str, DigitStrings]:
        config, options = self.config, self.config.options
        sample = config.data.name == "spoken_digits_sample"
        if sample and config.data.path:
            raise UserError("spoken_digits_sample ships with effjax and takes no path; give spoken_digits with it")
        if not sample and not config.data.path:
            raise UserError(
                "spoken_digits is read from the recordings of the Free Spoken Digit Dataset "
                "(https://github.com/Jakobovski/free-spoken-digit-dataset): give --config.data.path="
            )
        common = lambda split: dict(digits=tuple(options.digits), count=STRINGS[split], seed=SPLITS.index(split))
        return {
            split: DigitStrings(recordings, **common(split), **self._sizes(split))
            for split, recordings in digit_recordings(config.data.path).items()
        }

    def _sizes(self, split: str) -> dict[str, int]:
        """Samples or frames, and labels, of a row of the split."""
        options = self.config.options
        most = dict(length=options.length, labels=options.labels)
        return most if split == "train" else {name: options[f"scored_{name}"] or n for name, n in most.items()}

    def _utterances(self) -> dict[str, UtteranceExamples]:
        config, options = self.config, self.config.options
        if config.data.name == "librispeech":
            splits = librispeech(config.data.path)
        else:
            splits = an4(config.data.path, features=config.data.name == "an4_mfcc")
        return {
            split: UtteranceExamples(
                utterances,
                self.units,
                **self._sizes(split),
                fill=options.fill,
                drop_longer=options.drop_longer and split == "train",
                report=lambda text, split=split: print(f"{config.data.name}, {split} split: {text}", flush=True),
            )
            for split, utterances in splits.items()
        }

    def read(self, source: str) -> tuple[np.ndarray, float]:
        """A sound file, or one of features, and how many seconds it lasts."""
        options = self.config.options
        try:
            data = epath.Path(source).expanduser().read_bytes()
        except OSError as error:
            raise UserError(f"{source} cannot be read: {error.strerror or error}") from None
        if options.front_end == "features":
            frames = read_cepstra(data, source, options.n_features)
            return frames, len(frames) * options.hop
        sound = read_sound(data, source, options.sample_rate)
        least = round(options.window * options.sample_rate)
        if len(sound) < least:
            raise UserError(f"{source} holds {len(sound)} samples; at least {least} are needed, one frame")
        return sound, len(sound) / options.sample_rate
