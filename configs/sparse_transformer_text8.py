"""Sparse Transformer on text8: the model and training of `sparse_transformer_enwik8.py` over 27 symbols.

The paper (Child et al. 2019, 1904.10509) reports no text8 result. Presets, `--config=…:PRESET`: none, 94,653,467
parameters, not trained here yet; `tiny`: small enough for tests, over the enwik8 sample in the package.
"""

import pathlib

from effjax.errors import UserError
from effjax.training.config import load_config

ENWIK8 = pathlib.Path(__file__).with_name("sparse_transformer_enwik8.py")
PRESETS = ("", "tiny")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = load_config(f"{ENWIK8}:{preset}").unlock()
    if preset != "tiny":
        config.data.update(name="text8", vocabulary="text8")
        config.sample.prompt = "the history of "
    return config.lock()
