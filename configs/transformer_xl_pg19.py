"""Transformer-XL on PG-19 (Rae et al. 2020, 1911.05507): books, byte by byte, each by itself.

Presets, `--config=configs/transformer_xl_pg19.py:PRESET`: none, the model and schedule of
`configs/transformer_xl_enwik8.py` over the 256 bytes; tiny, its tiny one, for tests and first steps. Not trained here.

    python -m effjax.train --config=configs/transformer_xl_pg19.py --workdir=runs/pg19 \
      --config.data.path=gs://deepmind-gutenberg

PG-19 is the folder of its bucket, or a copy or archive of it: train/*.txt, validation/*.txt, test/*.txt. Streams run
through book after book; memory is masked at the end of a book and the first byte of one is no target. Published: 36.3
(Transformer-XL, 36 layers) and 33.6 (Compressive Transformer) are perplexities of words on the test books, by models of
word pieces; bits per byte turn into them only with the number of words, so there is no number to expect.
"""

import pathlib

from effjax.errors import UserError
from effjax.training.config import load_config

ENWIK8 = pathlib.Path(__file__).with_name("transformer_xl_enwik8.py")
PRESETS = ("", "tiny")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = load_config(f"{ENWIK8}:{preset}").unlock()
    config.data.update(name="pg19", vocabulary="bytes")
    config.eval.metric = "bits_per_byte"
    config.sample.prompt = "It was "
    return config.lock()
