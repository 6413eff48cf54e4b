r"""Lite Transformer and Transformer at equal mult-adds on Multi30k, German to English, small enough for a CPU.

Presets, `--config=configs/lite_transformer_multi30k.py:PRESET`, with `--config.data.path=` the archive or folder of
Multi30k's task 1 (`raw/train.de.gz`, …):

- none: Lite Transformer, 3+3 layers of width 96.
- transformer: attention of full width and feed-forward networks four times as wide, 3+3 layers of width 64.
- tiny: two layers on the toy sentences that ship with the package, for tests and first steps.

      python -m effjax.train --config=configs/lite_transformer_multi30k.py --config.data.path=multi30k_task1.tar.xz \
        --workdir=runs/multi30k
      python -m effjax.evaluate --workdir=runs/multi30k --checkpoint=average:3 --split=test_2017
      python -m effjax.predict --workdir=runs/multi30k "Ein Hund läuft durch den Schnee."

English to French is `--config.options.source=en --config.options.target=fr`. The paper has no result on Multi30k;
`experiments/translation/` has what both models reached here. Test is the Flickr test set of 2016; `test_2017`,
`test_2017_coco` and `test_2018` are there beside it, where the archive has the languages.
"""

import math
import pathlib

from effjax.errors import UserError
from effjax.models.seq2seq import seq2seq_config
from effjax.training.config import load_config

WMT14 = pathlib.Path(__file__).with_name("lite_transformer_wmt14.py")
PRESETS = ("", "transformer", "tiny")
LAYERS = 3


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = load_config(f"{WMT14}:tiny").unlock()
    config.options.decode = ("test", "test_2017", "test_2017_coco", "test_2018")
    if preset == "tiny":
        return config.lock()
    config.data.update(name="multi30k", vocabulary="bpe:2000")
    config.steps = 1200
    config.batch_size = 32
    common = {name: config.model[name] for name in ("norm", "norm_epsilon")}
    if preset == "transformer":
        config.model = seq2seq_config()
        for side in (config.model.encoder, config.model.decoder):
            side.n_layers = LAYERS
            side.full.use_bias = True
        width, config.model.d_ff = 64, 256
        config.model.update(n_heads=4, head_dim=width // 4)
    else:
        width, config.model.d_ff = 96, 96
        config.model.update(n_heads=4, head_dim=width // 8)
        for side in (config.model.encoder, config.model.decoder):
            side.update(pattern=("lsra",) * LAYERS, n_layers=LAYERS)
            side.lsra.kernel_size = (3, 7, 15)
    config.model.update(d_model=width, embedding_scale=math.sqrt(width), dropout=0.1, **common)
    config.model.update(cross_heads=4, cross_head_dim=width // 4)
    config.optimizer.update(learning_rate=3e-3, warmup=400)
    config.eval.update(every=500, batch_size=64)
    config.checkpoint.update(every=250, keep=3)
    return config.lock()
