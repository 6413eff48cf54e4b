"""Performer on enwik8 (Choromanski et al. 2021, 2009.14794).

Presets, `--config=configs/performer_enwik8.py:PRESET`:

- none: 12 layers, 512/2048, 8 heads of 64 with 256 positive orthogonal features each, redrawn every 1,000 steps, over
  windows of 8,192 bytes; 38,264,064 parameters, 196,608 of them random features. The paper has no enwik8 figure (its
  results are on proteins, ImageNet64 and PG-19), so there is no number to expect. Not trained here yet.
- tiny: the same family, small enough for tests and first steps, on the 2,000,000 bytes in the package.

      python -m effjax.train --config=configs/performer_enwik8.py:tiny --workdir=runs/performer

What is taken from the paper: softmax features and their number, redrawing, and the optimizer of its protein models
(Adam with b2 0.98 and eps 1e-9, dropout 0.1, weight decay 0.1, clipping at 0.5). What is not: queries and keys are
turned by their positions, so that the features estimate an attention that knows distances. The state of a stream is a
sum that never grows: 12 x 8 x (64 + 1) x 256 numbers.
"""

from effjax.errors import UserError
from effjax.models.build import DECODER_SHARDING, decoder_config
from effjax.training.config import base_config

PRESETS = ("", "tiny")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = base_config()
    config.steps = 100_000
    config.batch_size = 8
    config.data.update(name="enwik8", vocabulary="bytes", length=8192)
    config.sharding = DECODER_SHARDING
    config.model = decoder_config(pattern=("performer",))
    config.model.update(
        d_model=512,
        d_ff=2048,
        n_heads=8,
        head_dim=64,
        n_layers=12,
        activation="gelu",
        positions="none",
        dropout=0.1,
        remat=True,
        loss_chunk_size=1024,
    )
    config.model.performer.update(n_features=256, redraw_interval=1000, rotary=True)
    config.optimizer.update(
        name="adamw",
        schedule="cosine",
        learning_rate=5e-4,
        warmup=4000,
        b1=0.9,
        b2=0.98,
        eps=1e-9,
        weight_decay=0.1,
        clip_norm=0.5,
    )
    config.eval.update(every=1000, context=8192, stride=4096, batch_size=8, limit=655_360)
    config.checkpoint.every = 1000
    config.sample.update(prompt="The history of ", length=500, temperature=0.8)
    if preset == "tiny":
        tiny(config)
    return config.lock()


def tiny(config):
    """Four layers over windows of 256 bytes, 64 features."""
    config.steps = 1000
    config.batch_size = 4
    config.data.update(name="enwik8_sample", length=256)
    config.model.update(
        d_model=128, d_ff=256, n_heads=2, head_dim=64, n_layers=4, dropout=0.0, remat=False, loss_chunk_size=0
    )
    config.model.performer.update(n_features=64, redraw_interval=100)
    config.optimizer.update(learning_rate=2e-3, warmup=50, weight_decay=0.01)
    config.eval.update(every=250, context=256, stride=128, batch_size=16, limit=10_000)
    config.checkpoint.every = 250
    config.log_every = 20
    config.sample.length = 200
