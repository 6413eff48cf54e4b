r"""Lite Transformer on IWSLT14 German to English (Wu, Liu et al. 2020, 2004.11886).

Presets, `--config=configs/lite_transformer_iwslt14.py:PRESET`; sizes are of the blocks, without embeddings:

- none: 6+6 layers of width 160; 1,713,584 parameters.
- medium: width 240; 3,837,104 parameters.
- large: width 320; 6,805,424 parameters.
- tiny: two layers on the toy sentences that ship with the package, for tests and first steps.

      python -m effjax.train --config=configs/lite_transformer_iwslt14.py --config.data.path=de-en.tgz \
        --workdir=runs/iwslt14
      python -m effjax.evaluate --workdir=runs/iwslt14 --checkpoint=average:10

Not trained here: the official archive (`2014-01/texts/de/en/de-en.tgz`) is not at hand, and TensorFlow Datasets has no
builder for it. The paper gives its results on it as a curve only, so there is no number to expect.

Settings are those of the authors' files: light convolutions without gates, inverse-square-root decay from 5e-4 after
4,000 steps, the mean of the last ten checkpoints, a length penalty of 1. Byte pairs are 10,000, in small letters, from
plain text instead of Moses' tokens: BLEU is sacreBLEU's, `case:lc`, not that of tokenised text.
"""

import math
import pathlib

from effjax.errors import UserError
from effjax.training.config import load_config

WMT14 = pathlib.Path(__file__).with_name("lite_transformer_wmt14.py")
SIZES = {"": 160, "medium": 240, "large": 320}
PRESETS = (*SIZES, "tiny")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = load_config(f"{WMT14}:{'tiny' if preset == 'tiny' else ''}").unlock()
    for side in (config.model.encoder, config.model.decoder):
        side.lsra.update(convolution="light", glu=False, weight_dropout=0.1)
    config.model.update(dropout=0.2, attention_dropout=0.1)
    config.optimizer.update(name="adamw", schedule="rsqrt", weight_decay=1e-4)
    config.options.update(source="de", target="en", length_penalty=1.0, lowercase=True)
    if preset == "tiny":
        config.model.update(dropout=0.0, attention_dropout=0.0)
        config.optimizer.update(learning_rate=2e-3 * math.sqrt(100), warmup=100)
        return config.lock()
    width = SIZES[preset]
    config.model.update(d_model=width, d_ff=width, head_dim=width // 8, embedding_scale=math.sqrt(width))
    config.model.cross_head_dim = width // 4
    config.batch_size = 16  # rows of 256: the authors' 4,096 tokens
    config.data.update(name="iwslt14", vocabulary="bpe:10000")
    config.options.learn_from = 0
    config.optimizer.update(learning_rate=5e-4 * math.sqrt(4000), warmup=4000)
    return config.lock()
