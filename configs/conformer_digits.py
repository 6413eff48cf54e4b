"""Conformer on connected digits: strings of 3 to 7 recordings of the Free Spoken Digit Dataset (6 speakers, 8 kHz).

Presets, `--config=configs/conformer_digits.py:PRESET`:

- none: CTC over words, 4 blocks of width 64 over 40 log-mel bands. Training strings are drawn without end; the 300
  strings that are scored are made, with a fixed seed, from the official test takes (0 to 4). See experiments/speech.

      python -m effjax.train --config=configs/conformer_digits.py --config.data.path=recordings --workdir=runs/digits

- transducer: the same model under the RNN transducer's loss. Not run.
- streaming: the same under CTC, in chunks of 16 frames (0.64 s) with the 4 chunks before; features are not normalised
  by utterance, which a stream could not. Not run.
- tiny: one block of width 16, for tests and first steps, on a few recordings that come with effjax.

      python -m effjax.train --config=configs/conformer_digits.py:tiny --workdir=runs/digits
      python -m effjax.predict --workdir=runs/digits effjax/data/sample/spoken_digits/6_nicolas_7.wav
"""

from effjax.data.spoken_digits import SAMPLE_RATE, WORDS
from effjax.errors import UserError
from effjax.tasks.speech import conformer_config, speech_options
from effjax.training.config import base_config

PRESETS = ("", "transducer", "streaming", "tiny")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = base_config()
    config.task = "speech"
    config.steps = 400
    config.batch_size = 16
    config.data.name = "spoken_digits"
    config.model = conformer_config()
    config.model.update(d_model=64, n_layers=4, kernel_size=15)
    config.options = speech_options()
    config.options.update(
        units=WORDS, sample_rate=SAMPLE_RATE, n_mels=40, length=5 * SAMPLE_RATE, labels=8, digits=(3, 7)
    )
    config.options.augment.update(frequency_width=8, n_time_masks=4, time_width=20)
    config.optimizer.update(name="adamw", schedule="cosine", learning_rate=2e-3, warmup=50, weight_decay=1e-2)
    config.eval.update(every=100, batch_size=20, metric="word_error_rate")
    config.checkpoint.every = 50
    config.log_every = 10
    config.sample.length = 0
    if preset == "transducer":
        config.options.loss = "transducer"
        config.model.update(decoder_width=64, joint_width=64)
    if preset == "streaming":
        config.model.update(chunk_size=16, left_chunks=4)
        config.options.normalise = False
    if preset == "tiny":
        tiny(config)
    return config.lock()


def tiny(config):
    """One block of width 16 over strings of at most 3 digits and a second."""
    config.steps = 20
    config.batch_size = 8
    config.data.name = "spoken_digits_sample"
    config.model.update(d_model=16, n_layers=1, n_heads=2, kernel_size=3, decoder_width=16, joint_width=16)
    config.options.update(n_mels=16, length=SAMPLE_RATE, labels=3, digits=(1, 3))
    config.options.augment.update(frequency_width=2, n_time_masks=1)
    config.optimizer.warmup = 5
    config.eval.update(every=10, batch_size=4, limit=4)
    config.eval.test = False
    config.checkpoint.every = 10
    config.log_every = 5
