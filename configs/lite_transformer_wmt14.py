"""Lite Transformer on WMT14 English to French (Wu, Liu et al. 2020, 2004.11886).

Presets, `--config=configs/lite_transformer_wmt14.py:PRESET`; sizes are of the blocks, without embeddings, as published:

- none: 6+6 layers of width 496; 17,283,616 parameters, 527M mult-adds for 30 + 30 tokens.
  Number to expect: BLEU 39.6 on newstest2014 (tokenised; the authors' README).
- medium: width 408; 11,739,792 parameters, 360M mult-adds; 39.1.
- small: width 200; 2,884,400 parameters, 90M mult-adds; 35.3.
- tiny: two layers on the toy sentences that ship with the package, for tests and first steps.

      python -m effjax.train --config=configs/lite_transformer_wmt14.py:tiny --workdir=runs/lite
      python -m effjax.plan --config=configs/lite_transformer_wmt14.py

Not trained here: the corpus (36M pairs, TensorFlow Datasets' `wmt14_translate/fr-en`) is not at hand. English to
German is `--config.options.target=de`; the paper's figures for it (26.5, 25.6, 22.5) are of WMT16's training data, a
warm-up of 10,000 steps and 32K byte pairs.

Settings are those of the authors' files: half of the channels attend, half pass a gated dynamic convolution of 3, 7,
15, 31, 31, 31 taps; feed-forward networks as wide as the model; post-norm; a cosine of 50,000 updates of 524K tokens,
with one vocabulary for both languages. What differs: sentences are packed into rows of 256 tokens, byte pairs are
learned from plain text instead of Moses' tokens, and the rate warms up from 0 instead of 1e-7. The authors score the
best checkpoint, `--checkpoint=best`.
"""

import math

from effjax.errors import UserError
from effjax.models.build import DECODER_SHARDING
from effjax.models.seq2seq import seq2seq_config
from effjax.tasks.text_to_text import text_options
from effjax.training.config import base_config

KERNELS = (3, 7, 15, 31, 31, 31)
SIZES = {"": 496, "medium": 408, "small": 200}
DROPOUT = {496: (0.1, 0.08, 0.08), 408: (0.08, 0.07, 0.07), 200: (0.04, 0.03, 0.03)}  # all, attention's, kernels'
PRESETS = (*SIZES, "tiny")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = base_config()
    config.task = "translation"
    config.steps = 50_000
    config.batch_size = 2048
    config.data.update(name="wmt14", vocabulary="bpe:40000", length=256)
    config.sharding = DECODER_SHARDING
    config.options = text_options()
    config.options.update(source="en", target="fr", source_length=256, learn_from=4_000_000)
    config.model = seq2seq_config(encoder=("lsra",) * 6, decoder=("lsra",) * 6)
    config.model.update(norm="post", norm_epsilon=1e-5)
    size(config, SIZES.get(preset, 496), KERNELS)
    drop(config, *DROPOUT[config.model.d_model])
    config.optimizer.update(
        name="adam", schedule="cosine", learning_rate=1e-3, warmup=5000, b1=0.9, b2=0.98, eps=1e-8, clip_norm=0.0
    )
    config.eval.update(every=1000, batch_size=64, metric="loss")
    config.checkpoint.update(every=1000, keep=10)
    config.log_every = 100
    config.sample.length = 0
    if preset == "tiny":
        tiny(config)
    return config.lock()


def size(config, d_model, kernels, *, convolution="dynamic", glu=True):
    """Layers of a width, one for each kernel, whose two branches and attention to the source have four heads."""
    model = config.model
    model.update(d_model=d_model, d_ff=d_model, n_heads=4, head_dim=d_model // 8, embedding_scale=math.sqrt(d_model))
    model.update(cross_heads=4, cross_head_dim=d_model // 4)
    for side in (model.encoder, model.decoder):
        side.update(pattern=("lsra",) * len(kernels), n_layers=len(kernels))
        side.lsra.update(kernel_size=kernels, convolution=convolution, glu=glu)


def drop(config, everywhere, attention, kernels):
    """Dropout of embeddings and outputs of blocks, of attention's weights, of kernels' weights."""
    config.model.update(dropout=everywhere, attention_dropout=attention, hidden_dropout=0.0)
    for side in (config.model.encoder, config.model.decoder):
        side.lsra.weight_dropout = kernels


def tiny(config):
    """Two layers of width 64 that learn to translate toy German within minutes."""
    config.steps = 600
    config.batch_size = 16
    config.data.update(name="phrases", vocabulary="bpe:400", length=64)
    config.options.update(source="de", target="en", source_length=64)
    size(config, 64, (3, 7))
    drop(config, 0.0, 0.0, 0.0)
    config.optimizer.update(learning_rate=2e-3, warmup=100, clip_norm=1.0)
    config.eval.update(every=200, batch_size=50)
    config.checkpoint.update(every=200, keep=3)
    config.log_every = 20
