"""Reformer on PG-19 (Rae et al. 2020, 1911.05507): books, byte by byte, in windows of 65,536.

Presets, `--config=configs/reformer_pg19.py:PRESET`: none, the model and schedule of `configs/reformer_enwik8.py` over
the 256 bytes; tiny, its tiny one, for tests and first steps. Not trained here.

    python -m effjax.train --config=configs/reformer_pg19.py --workdir=runs/pg19 --config.data.path=gs://deepmind-gutenberg

The data, and what is published: see `configs/transformer_xl_pg19.py`. A window that holds the end of a book and the
beginning of the next keeps them apart by segments.
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
    config.data.update(name="pg19", vocabulary="bytes")
    config.sample.prompt = "It was "
    return config.lock()
