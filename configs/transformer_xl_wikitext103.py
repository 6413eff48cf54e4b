"""Transformer-XL on WikiText-103 (Dai et al. 2019, 1901.02860), in words, with an adaptive input and softmax.

Presets, `--config=configs/transformer_xl_wikitext103.py:PRESET`:

- none: 16 layers, 410/2100, 10 heads of 41; segments and memory of 150, 200,000 steps of 60; 151,107,538 parameters
  (published: 151M). Needs the text (`--config.data.path=wikitext-103-v1.zip`, or a network) and accelerators. Not
  trained here yet. Number to expect: a perplexity of 24.0 on the test text, 23.1 on the valid one.
- large: 18 layers, 1024/4096, 16 heads of 64; segments and memory of 384, 4,000,000 steps of 128, each tail a quarter
  as wide as the cluster before it; 285,205,322 parameters. The paper's table says 257M, which its scripts do not give.
  Number to expect: 18.3.
- tiny: over the words of the enwik8 sample in the package, for tests and first steps.

      python -m effjax.train --config=configs/transformer_xl_wikitext103.py:tiny --workdir=runs/wikitext103
      python -m effjax.plan --config=configs/transformer_xl_wikitext103.py

Settings are those of the authors' scripts (PyTorch for base, TensorFlow for large), scored as there: parallel streams,
a longer memory, distances clamped, every position seeing as many tokens as any other. `<eos>` ends every line and is
scored. What differs is what `configs/transformer_xl_enwik8.py` says.
"""

import math

from effjax.errors import UserError
from effjax.models.build import DECODER_SHARDING, decoder_config
from effjax.training.config import base_config

PRESETS = ("", "large", "tiny")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = base_config()
    config.steps = 200_000
    config.batch_size = 60
    config.data.update(name="wikitext103", vocabulary="words:267735", reader="streams")
    config.sharding = DECODER_SHARDING
    config.model = decoder_config(pattern=("transformer_xl",))
    config.model.update(
        d_model=410,
        d_ff=2100,
        n_heads=10,
        head_dim=41,
        n_layers=16,
        norm="post",
        norm_epsilon=1e-5,
        positions="none",
        embedding="adaptive",
        dropout_over_time=False,
        loss_chunk_size=50,
    )
    config.optimizer.update(
        name="adam", schedule="cosine", learning_rate=2.5e-4, warmup=0, b1=0.9, b2=0.999, eps=1e-8, clip_norm=0.25
    )
    config.eval.update(reader="streams", every=4000, metric="perplexity", limit=0)
    config.checkpoint.every = 4000
    config.log_every = 200
    config.sample.update(prompt="The history of", length=200, temperature=0.8)
    segments(config, 150, dropout=0.1)
    scoring(config, targets=64, memory=640, clamp=400, streams=10)
    initial(config, 0.02)
    if preset == "large":
        large(config)
    if preset == "tiny":
        tiny(config)
    config.model.embedding_scale = math.sqrt(config.model.d_model)
    return config.lock()


def segments(config, length, *, dropout, attention_dropout=0.0):
    """Segments as long as the memory, and dropout in all places."""
    config.data.length = length
    config.model.update(dropout=dropout, attention_dropout=attention_dropout)
    config.model.transformer_xl.update(memory_length=length, position_dropout_rate=dropout)


def scoring(config, *, targets, memory, clamp, streams):
    """The memory with which the model is scored, which need not be that of training."""
    config.eval.update(context=targets, batch_size=streams)
    config.eval.model = (
        ("transformer_xl.memory_length", memory),
        ("transformer_xl.clamp_length", clamp),
        ("transformer_xl.same_length", True),
    )


def initial(config, deviation, projections: float | None = None):
    """Standard deviations of what is drawn at the start."""
    config.model.init = (
        (r"vocabulary/(table_\d+|tail_table)$", deviation),
        ("mixer/(query|key|value|distance|out)/kernel$", deviation),
        ("feed_forward/(inner|outer)/kernel$", deviation),
    )
    if projections is not None:
        config.model.init += ((r"vocabulary/(projection_\d+|head_projection)$", projections),)


def large(config):
    config.steps = 4_000_000
    config.batch_size = 128
    config.model.update(d_model=1024, d_ff=4096, n_heads=16, head_dim=64, n_layers=18)
    config.model.adaptive.div = 4
    config.model.transformer_xl.untie_biases = True
    segments(config, 384, dropout=0.2, attention_dropout=0.2)
    scoring(config, targets=128, memory=1600, clamp=1000, streams=16)
    initial(config, 0.005, projections=0.01)
    config.optimizer.warmup = 16_000


def tiny(config):
    """Two layers that read 32 words at a time and remember 32; 64 when scored."""
    config.steps = 600
    config.batch_size = 16
    config.data.update(name="enwik8_sample", vocabulary="words:8000")
    config.model.update(d_model=64, d_ff=128, n_heads=2, head_dim=32, n_layers=2, loss_chunk_size=16)
    config.model.adaptive.update(cutoffs=(500, 2000), div=2)
    segments(config, 32, dropout=0.0)
    scoring(config, targets=32, memory=64, clamp=64, streams=8)
    initial(config, 0.02, projections=0.01)
    config.optimizer.update(learning_rate=2e-3, warmup=50)
    config.eval.update(every=200, limit=2000)
    config.checkpoint.every = 200
    config.log_every = 20
    config.sample.length = 40
