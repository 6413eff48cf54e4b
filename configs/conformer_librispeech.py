"""Conformer on LibriSpeech (Gulati et al. 2020, 2005.08100): 960 hours of read English.

Presets, `--config=configs/conformer_librispeech.py:PRESET`:

- none, medium, large: the paper's three transducers, 10.3, 30.7, 118.8 million parameters with its 1,000 word pieces;
  word error rates without a language model, test-clean/test-other: 2.7/6.3, 2.3/5.0, 2.1/4.3. Here the units are
  characters, so that nothing has to be learned before training. Not trained here: the corpus is not at hand.
- ctc: the small encoder under CTC.
- smoke: the small encoder at width 64 and 4 blocks, for the 112 utterances of a slice. See experiments/speech.
- tiny: one block of width 16, two steps.

      python -m effjax.train --config=configs/conformer_librispeech.py:ctc --config.data.path=DIR --workdir=runs/ls
      python -m effjax.evaluate --workdir=runs/ls --split=test_other --checkpoint=best

Without `data.path` the corpus is read through TensorFlow Datasets (`librispeech`). From the paper: 80 log-mel bands of
25 ms every 10 ms, SpecAugment with F = 27 and ten time masks of at most 0.05 of the utterance, dropout 0.1, Adam with
b1 0.9, b2 0.98, eps 1e-9, 10,000 steps of warm-up to a peak of 0.05 / sqrt(d), L2 of 1e-6. It states neither its batch
size nor its number of steps, and adds variational noise, which is left out here. Its L2 is in the gradient; here the
decay is decoupled.
"""

import math

from effjax.errors import UserError
from effjax.models.conformer import SIZES
from effjax.tasks.speech import conformer_config, speech_options
from effjax.training.config import base_config

PRESETS = ("", "medium", "large", "ctc", "smoke", "tiny")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = base_config()
    config.task = "speech"
    config.steps = 250_000
    config.batch_size = 256
    config.data.name = "librispeech"
    config.model = conformer_config()
    config.model.update(SIZES[preset if preset in SIZES else "small"])
    config.options = speech_options()
    config.options.update(loss="transducer", length=267_200)  # 16.7 seconds
    config.options.update(scored_length=576_000, scored_labels=640)  # nothing is left out of a score: 36 seconds
    config.options.augment.time_width = 1000  # no other bound than the ratio
    peak, warmup = 0.05 / math.sqrt(config.model.d_model), 10_000
    config.optimizer.update(
        name="adamw",
        schedule="rsqrt",
        learning_rate=peak * math.sqrt(warmup),
        warmup=warmup,
        b2=0.98,
        eps=1e-9,
        weight_decay=1e-6,
        clip_norm=0.0,
    )
    config.eval.update(every=2000, batch_size=64, metric="word_error_rate")
    config.checkpoint.every = 2000
    config.log_every = 100
    config.sample.length = 0
    if preset in ("ctc", "smoke", "tiny"):
        config.options.loss = "ctc"
    if preset in ("smoke", "tiny"):
        slice_of(config)
    if preset == "tiny":
        config.steps = 2
        config.batch_size = config.eval.batch_size = 8
        config.model.update(d_model=16, n_layers=1, n_heads=2, kernel_size=3)
        config.options.update(n_mels=16, length=64_000, scored_length=0, scored_labels=0)
        config.eval.update(every=2, limit=2)
        config.eval.test = False
        config.log_every = 1
    return config.lock()


def slice_of(config):
    """A model for a quarter of an hour of speech, to see that everything fits together."""
    config.steps = 60
    config.batch_size = 4
    config.model.update(d_model=64, n_layers=4, kernel_size=15)
    config.optimizer.update(schedule="cosine", learning_rate=1e-3, warmup=10, clip_norm=1.0)
    config.options.update(length=240_000, scored_length=384_000, drop_longer=True)
    config.eval.update(every=30, batch_size=4)
    config.checkpoint.every = 30
    config.log_every = 5
