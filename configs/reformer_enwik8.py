"""Reformer on enwik8 (Kitaev, Kaiser & Levskaya 2020, 2001.04451).

Presets, `--config=configs/reformer_enwik8.py:PRESET`:

- none: trax's public `reformer_enwik8.gin`: 12 layers [local, local, LSH, local], 768/2048, 8 heads of 64, sequences of
  65,536 bytes, one per device on 8 devices, 100,000 steps; 56,406,786 parameters. Needs the real enwik8
  (`--config.data.path=enwik8.zip`, or a network) and accelerators. Not trained here yet. Number to expect: the paper
  gives 1.05 bits per dim for a tuned 12-layer model, 1.19 after 20,000 steps.
- large: the sizes that the same file recommends where memory allows, 1024/4096, 8 heads of 128; 149,182,722 parameters.
- tiny: the README's first command, on the 2,000,000 bytes in the package. Two CPU cores, 3 min 16 s, 2.789 bits per
  byte on the sample's test bytes (`experiments/reformer_enwik8_sample`).

    python -m effjax.train --config=configs/reformer_enwik8.py:tiny --workdir=runs/reformer

What differs from trax: splits and windows are by byte (90M/5M/5M), not by decoded character, and a window predicts each
byte from those before it inside the window, the first from one byte more; hashes are drawn per head, not per example.
"""

from effjax.errors import UserError
from effjax.models.build import DECODER_SHARDING, decoder_config
from effjax.training.config import base_config

PRESETS = ("", "large", "tiny")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = base_config()
    config.steps = 100_000
    config.batch_size = 8
    config.data.update(name="enwik8", vocabulary="bytes+2", length=65_536, stride=16_384)
    config.sharding = DECODER_SHARDING
    config.model = decoder_config(pattern=("local", "local", "lsh", "local"))
    config.model.update(
        d_model=768,
        d_ff=2048,
        n_layers=12,
        residual="reversible",
        positions="axial",
        dropout=0.2,
        attention_dropout=0.2,
        ff_chunk_size=4096,
    )
    config.model.local.chunk_size = 128
    config.model.lsh.update(chunk_size=256, n_hashes=2, n_buckets=(512,))
    config.model.axial.update(shape=(128, 512), dims=(256, 512))
    config.optimizer.update(
        name="adam", schedule="rsqrt", learning_rate=0.03125, warmup=2000, b1=0.9, b2=0.98, eps=1e-9, clip_norm=0.0
    )
    config.eval.update(every=1000, context=65_536, stride=65_536, batch_size=8, limit=655_360)
    config.checkpoint.every = 1000
    config.sample.update(prompt="The history of ", length=500, temperature=0.8)
    if preset == "large":
        config.model.update(d_model=1024, d_ff=4096, head_dim=128)
        config.model.axial.dims = (256, 768)
    if preset == "tiny":
        tiny(config)
    return config.lock()


def tiny(config):
    """Four reversible layers, one of them LSH, over windows of 256 bytes.

    Small batches, many steps, and rotary positions in the local layers, which find out about distances within a few
    hundred steps where axial ones alone take thousands.
    """
    config.steps = 1800
    config.batch_size = 4
    config.data.update(name="enwik8_sample", length=256, stride=0)
    config.model.update(
        d_model=128, d_ff=256, n_heads=2, head_dim=64, n_layers=4, dropout=0.0, attention_dropout=0.0, ff_chunk_size=0
    )
    config.model.local.update(chunk_size=32, rotary=True)
    config.model.lsh.update(chunk_size=32, n_hashes=2, n_buckets=(16,))
    config.model.axial.update(shape=(16, 32), dims=(64, 64), init_scale=0.1)
    config.optimizer.update(schedule="cosine", learning_rate=3e-3, warmup=50, clip_norm=1.0)
    config.eval.update(every=300, context=256, stride=128, batch_size=16, limit=10_000)
    config.checkpoint.every = 300
    config.log_every = 20
    config.sample.length = 200
