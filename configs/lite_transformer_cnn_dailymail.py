"""Lite Transformer on the summaries of CNN / DailyMail (Wu, Liu et al. 2020, 2004.11886).

Presets, `--config=configs/lite_transformer_cnn_dailymail.py:PRESET`:

- none: the translation model of width 496, 17,283,616 parameters in its blocks. Number to expect: ROUGE-L 38.3 at 800M
  mult-adds (the authors' README); this model takes as many for 30 + 60 tokens, lengths which are inferred from that.
- tiny: two layers on the toy documents that ship with the package, for tests and first steps.

      python -m effjax.train --config=configs/lite_transformer_cnn_dailymail.py:tiny --workdir=runs/digests
      python -m effjax.predict --workdir=runs/digests article.txt

Not trained here: the corpus (TensorFlow Datasets' `cnn_dailymail`) is not at hand. The authors' settings for this task
are not public; these are those of `lite_transformer_wmt14.py` over the first 1,023 byte pairs of an article.
"""

import pathlib

from effjax.errors import UserError
from effjax.training.config import load_config

WMT14 = pathlib.Path(__file__).with_name("lite_transformer_wmt14.py")
PRESETS = ("", "tiny")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = load_config(f"{WMT14}:{preset}").unlock()
    config.task = "summarisation"
    config.options.update(source="", target="", pack=False, truncate=True, count_lengths=(30, 60))
    if preset == "tiny":
        config.data.update(name="digests", length=48)
        config.options.source_length = 128
        return config.lock()
    config.batch_size = 512
    config.data.update(name="cnn_dailymail", vocabulary="bpe:30000", length=160)
    config.options.update(source_length=1024, learn_from=0)
    config.eval.batch_size = 16
    return config.lock()
