"""Adaptive attention span on text8 (Sukhbaatar et al. 2019, 1905.07799): the models of `adaptive_span_enwik8.py` over
28 symbols.

Presets, `--config=…:PRESET`: none, 900,000 steps, 38,357,116 parameters; number to expect: 1.11 bits per symbol.
`large`, 250,000 steps and 20,000 more at a tenth of the learning rate, 208,638,172 parameters; number to expect: 1.07.
Neither was trained here yet. `tiny`: small enough for tests, over the enwik8 sample in the package.
"""

import pathlib

from effjax.errors import UserError
from effjax.training.config import load_config

ENWIK8 = pathlib.Path(__file__).with_name("adaptive_span_enwik8.py")
PRESETS = ("", "large", "tiny")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = load_config(f"{ENWIK8}:{preset}").unlock()
    if preset != "tiny":
        config.data.update(name="text8", vocabulary="text8_eos")
        config.sample.prompt = "the history of "
        config.steps = 900_000
    if preset == "large":
        config.steps, (_, last) = 270_000, config.stages
        config.stages = ((250_000, ()), last)
    return config.lock()
