"""Reformer on text8: the model and schedule of `reformer_enwik8.py` over 27 symbols.

Presets, `--config=…:PRESET`: none, the public sizes, 55,874,331 parameters, not trained here yet; the paper has no
figure for text8. `tiny`: small enough for tests, over the enwik8 sample in the package.

    python -m effjax.train --config=configs/reformer_text8.py --workdir=runs/reformer_text8 --config.data.path=text8.zip
"""

import pathlib

from effjax.errors import UserError
from effjax.training.config import load_config

ENWIK8 = pathlib.Path(__file__).with_name("reformer_enwik8.py")
PRESETS = ("", "tiny")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = load_config(f"{ENWIK8}:{preset}").unlock()
    if preset != "tiny":
        config.data.update(name="text8", vocabulary="text8")
        config.sample.prompt = "the history of "
    return config.lock()
