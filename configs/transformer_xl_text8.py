"""Transformer-XL on text8 (Dai et al. 2019, 1901.02860): the models of `transformer_xl_enwik8.py` over 27 symbols.

Presets, `--config=…:PRESET`: none, 40,964,635 parameters; `large`, 277,050,395 (published:
277M), number to expect: 1.08 bits per symbol of the test text; not trained here yet. `tiny`: small enough for tests,
over the enwik8 sample in the package.
"""

import pathlib

from effjax.errors import UserError
from effjax.training.config import load_config

ENWIK8 = pathlib.Path(__file__).with_name("transformer_xl_enwik8.py")
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
