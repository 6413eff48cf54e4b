"""Conformer under CTC on AN4, spelled letters, digits and commands (CMU's census database): 948 and 130 utterances.

Presets, `--config=configs/conformer_an4.py:PRESET`:

- none: 4 blocks of width 64 over the 13 cepstra of the Sphinx distribution; characters. See
  experiments/speech for what has been run.

      python -m effjax.train --config=configs/conformer_an4.py --config.data.path=an4_mfcc.tar.xz --workdir=runs/an4

- sound: the same over 80 log-mel bands of an4_sphere.tar.gz. Not run.
- tiny: one block of width 16, for tests, on whatever `data.path` holds.

There is no official validation set: four of the 74 training speakers (every 16th by name) are held out.
"""

from effjax.errors import UserError
from effjax.tasks.speech import conformer_config, speech_options
from effjax.training.config import base_config

PRESETS = ("", "sound", "tiny")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = base_config()
    config.task = "speech"
    config.steps = 600
    config.batch_size = 16
    config.data.name = "an4_mfcc"
    config.model = conformer_config()
    config.model.update(d_model=64, n_layers=4, kernel_size=15)
    config.options = speech_options()
    config.options.update(
        units=tuple(" ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
        front_end="features",
        length=640,
        labels=96,
        fill=True,
    )
    config.options.augment.update(frequency_width=3, n_time_masks=5, time_width=25)
    config.optimizer.update(name="adamw", schedule="cosine", learning_rate=2e-3, warmup=60, weight_decay=1e-2)
    config.eval.update(every=100, batch_size=16, metric="word_error_rate")
    config.checkpoint.every = 50
    config.log_every = 10
    config.sample.length = 0
    if preset == "sound":
        config.data.name = "an4"
        config.options.update(front_end="log_mel", n_mels=80, length=102_400)
        config.options.augment.frequency_width = 20
    if preset == "tiny":
        config.steps = 2
        config.batch_size = config.eval.batch_size = 8
        config.model.update(d_model=16, n_layers=1, n_heads=2, kernel_size=3)
        config.eval.every = 2
        config.log_every = 1
    return config.lock()
