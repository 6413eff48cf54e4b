"""Performer on text8: the model and training of `performer_enwik8.py` over 27 symbols.

The paper (Choromanski et al. 2021, 2009.14794) reports no text8 result. Presets, `--config=…:PRESET`: none, 38,029,339
parameters, not trained here yet; `tiny`: small enough for tests, over the enwik8 sample in the package.
"""

import pathlib

from effjax.errors import UserError
from effjax.training.config import load_config

ENWIK8 = pathlib.Path(__file__).with_name("performer_enwik8.py")
PRESETS = ("", "tiny")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = load_config(f"{ENWIK8}:{preset}").unlock()
    if preset != "tiny":
        config.data.update(name="text8", vocabulary="text8")
        config.sample.prompt = "the history of "
    return config.lock()
