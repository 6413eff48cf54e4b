"""Transformer-XL on enwik8 (Dai et al. 2019, 1901.02860), trained on streams whose memory goes on from step to step.

Presets, `--config=configs/transformer_xl_enwik8.py:PRESET`:

- none: 12 layers, 512/2048, 8 heads; segments and memory of 512, 400,000 steps; 41,055,436 parameters (published: 41M).
  Not trained here yet. Number to expect: 1.06 bits per symbol of the test text.
- large: 24 layers, 1024/3072, 8 heads of 128; segments and memory of 768; 277,231,820 parameters (published: 277M).
  Number to expect: 0.99. The paper's text has segments of 784, its scripts 768.
- tiny: over the bytes in the package, for tests and first steps.

      python -m effjax.train --config=configs/transformer_xl_enwik8.py:tiny --workdir=runs/transformer_xl
      python -m effjax.plan --config=configs/transformer_xl_enwik8.py:large

Scored as in the paper: the text in parallel streams, a few targets at a time with a memory much longer than in
training, distances clamped, and every position seeing as many tokens as any other (`config.eval.model`).

The settings are those of the authors' PyTorch scripts: the batch of 22, cosine decay to 0, and warm-up where the
TensorFlow script of the large model has it. What differs: norms start with a scale of 1, not N(1, 0.02); each layer
draws its own dropout mask for the distances; an epoch begins at a random offset, and an empty memory is not attended.
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
    config.steps = 400_000
    config.batch_size = 22
    config.data.update(name="enwik8", vocabulary="drop_newlines", reader="streams")
    config.sharding = DECODER_SHARDING
    config.model = decoder_config(pattern=("transformer_xl",))
    config.model.update(
        d_model=512,
        d_ff=2048,
        n_heads=8,
        head_dim=64,
        n_layers=12,
        norm="post",
        norm_epsilon=1e-5,
        positions="none",
        tie_embeddings=True,
        dropout_over_time=False,
        init=(
            ("vocabulary/embedding/embedding$", 0.02),
            ("mixer/(query|key|value|distance|out)/kernel$", 0.02),
            ("feed_forward/(inner|outer)/kernel$", 0.02),
        ),
    )
    config.optimizer.update(
        name="adam", schedule="cosine", learning_rate=2.5e-4, warmup=0, b1=0.9, b2=0.999, eps=1e-8, clip_norm=0.25
    )
    config.eval.update(reader="streams", every=4000, metric="bits_per_symbol", limit=500_000)
    config.checkpoint.every = 4000
    config.log_every = 200
    config.sample.update(prompt="The history of ", length=500, temperature=0.8)
    segments(config, 512, dropout=0.1)
    scoring(config, targets=80, memory=2100, clamp=820, streams=10)
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


def large(config):
    config.batch_size = 64
    config.model.update(d_model=1024, d_ff=3072, head_dim=128, n_layers=24)
    segments(config, 768, dropout=0.15, attention_dropout=0.15)
    scoring(config, targets=128, memory=3800, clamp=1000, streams=16)
    config.optimizer.warmup = 4000


def tiny(config):
    """Four layers that read 64 bytes at a time and remember 64; 128 when scored."""
    config.steps = 1000
    config.batch_size = 16
    config.data.update(name="enwik8_sample", vocabulary="bytes")
    config.model.update(d_model=128, d_ff=256, n_heads=2, n_layers=4)
    segments(config, 64, dropout=0.0)
    scoring(config, targets=64, memory=128, clamp=128, streams=8)
    config.optimizer.update(learning_rate=2e-3, warmup=50)
    config.eval.update(every=250, metric="bits_per_byte", limit=10_000)
    config.checkpoint.every = 250
    config.log_every = 20
    config.sample.length = 200
