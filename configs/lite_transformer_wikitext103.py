"""Lite Transformer on WikiText-103 (Wu, Liu et al. 2020, 2004.11886), in words, with an adaptive input and softmax.

Presets, `--config=configs/lite_transformer_wikitext103.py:PRESET`:

- none: 12 layers of width 896. Needs the text (`--config.data.path=wikitext-103-v1.zip`, or a network) and
  accelerators. Not trained here yet. Number to expect: a perplexity of 22.2 on the test text at 1147M mult-adds (the
  authors' README); these blocks take 1141M for 30 tokens.
- tiny: over the words of the enwik8 sample in the package, for tests and first steps.

      python -m effjax.train --config=configs/lite_transformer_wikitext103.py:tiny --workdir=runs/wikitext103
      python -m effjax.plan --config=configs/lite_transformer_wikitext103.py

Half of the channels attend, half pass a gated dynamic convolution; pre-norm, feed-forward networks as wide as the
model, words in clusters of 20,000, 40,000 and the rest with tied projections. The authors' file leaves the depth open:
its default is 12 layers, its list of kernels has six. Taken here is what comes near the published mult-adds: 12 layers
whose taps are 3, 7, 15 and then 31. What differs: Adam instead of Nesterov's momentum, one cosine of 286,000 steps
instead of restarts, no dropout in the adaptive softmax.
"""

import math

from effjax.errors import UserError
from effjax.models.build import DECODER_SHARDING, decoder_config
from effjax.training.config import base_config

PRESETS = ("", "tiny")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = base_config()
    config.steps = 286_000
    config.batch_size = 18
    config.data.update(name="wikitext103", vocabulary="words:267735", length=512)
    config.sharding = DECODER_SHARDING
    config.model = decoder_config(pattern=("lsra",))
    config.model.update(embedding="adaptive", dropout_over_time=False, dropout=0.21, attention_dropout=0.14)
    config.model.adaptive.update(cutoffs=(20_000, 60_000), div=4, tie_head=True)
    config.model.update(hidden_dropout=0.1, loss_chunk_size=128)
    size(config, 896, (3, 7, 15) + 9 * (31,))
    config.model.lsra.weight_dropout = 0.14
    config.optimizer.update(name="adam", schedule="cosine", learning_rate=5e-4, warmup=16_000, b2=0.98, clip_norm=0.1)
    config.eval.update(every=4000, context=2560, stride=512, batch_size=4, metric="perplexity", limit=50_000)
    config.checkpoint.every = 4000
    config.log_every = 100
    config.sample.update(prompt="The history of", length=200, temperature=0.8)
    if preset == "tiny":
        tiny(config)
    return config.lock()


def size(config, d_model, kernels):
    """Layers of a width, one for each kernel, whose two branches have four heads."""
    config.model.update(d_model=d_model, d_ff=d_model, n_heads=4, head_dim=d_model // 8)
    config.model.update(pattern=("lsra",) * len(kernels), n_layers=len(kernels), embedding_scale=math.sqrt(d_model))
    config.model.lsra.kernel_size = kernels


def tiny(config):
    """Two layers over 64 words."""
    config.steps = 600
    config.batch_size = 8
    config.data.update(name="enwik8_sample", vocabulary="words:8000", length=64)
    config.model.update(dropout=0.0, attention_dropout=0.0, hidden_dropout=0.0, loss_chunk_size=0)
    config.model.adaptive.update(cutoffs=(500, 2000), div=2)
    size(config, 64, (3, 7))
    config.model.lsra.weight_dropout = 0.0
    config.optimizer.update(learning_rate=2e-3, warmup=50, clip_norm=1.0)
    config.eval.update(every=200, context=64, stride=32, batch_size=8, limit=2000)
    config.checkpoint.every = 200
    config.log_every = 20
    config.sample.length = 40
