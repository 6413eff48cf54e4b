"""Longformer on text8 (Beltagy, Peters & Cohan 2020, 2004.05150): the models of `longformer_enwik8.py`, trained in the
same five stages, over 27 symbols.

Presets, `--config=…:PRESET`, not trained here yet: none, 40,990,235 parameters, number to expect: 1.10 bits per symbol;
`large`, 102,451,739 parameters, for which the paper has no number. `tiny`: small enough for tests, over the enwik8
sample in the package.
"""

import pathlib

from effjax.errors import UserError
from effjax.training.config import load_config

ENWIK8 = pathlib.Path(__file__).with_name("longformer_enwik8.py")
PRESETS = ("", "large", "tiny")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = load_config(f"{ENWIK8}:{preset}").unlock()
    if preset != "tiny":
        config.data.update(name="text8", vocabulary="text8")
        config.eval.metric = "bits_per_byte"
        config.sample.prompt = "the history of "
    return config.lock()
