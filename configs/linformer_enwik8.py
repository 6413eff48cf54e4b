"""Linformer for masked language modelling on enwik8 (Wang et al. 2020, 2006.04768).

Presets, `--config=configs/linformer_enwik8.py:PRESET`:

- none: the paper's model, RoBERTa-base with 256 mixtures of 512 positions, projections shared by the heads of a layer:
  12 layers, 768/3072, 12 heads; 88,754,177 parameters. 15 % of the bytes are hidden. The paper pre-trains on books and
  Wikipedia in words' pieces and gives no enwik8 figure, so there is no number to expect. Not trained here yet.
- tiny: the same family, small enough for tests and first steps, on the 2,000,000 bytes in the package.

      python -m effjax.train --config=configs/linformer_enwik8.py:tiny --workdir=runs/linformer

What is taken from RoBERTa's recipe: post-norm blocks, gelu, learned positions, tied embeddings, dropout 0.1, initial
weights of deviation 0.02, Adam with b2 0.98 and eps 1e-6, weight decay 0.01; from the paper 250,000 steps. What is not:
the schedule ends in a cosine instead of a line, the read-out has no hidden layer, queries, keys and values no biases.
`--config.model.linformer.sharing` is one of none, headwise, key_value, layerwise.
"""

from effjax.errors import UserError
from effjax.models.build import DECODER_SHARDING, encoder_config
from effjax.training.config import base_config

PRESETS = ("", "tiny")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = base_config()
    config.task = "masked_language_modelling"
    config.steps = 250_000
    config.batch_size = 256
    config.data.update(name="enwik8", vocabulary="bytes", length=512)
    config.sharding = DECODER_SHARDING
    config.model = encoder_config(pattern=("linformer",))
    config.model.update(
        d_model=768,
        d_ff=3072,
        n_heads=12,
        head_dim=64,
        n_layers=12,
        activation="gelu",
        norm="post",
        norm_epsilon=1e-5,
        positions="axial",
        tie_embeddings=True,
        dropout=0.1,
        attention_dropout=0.1,
        dropout_over_time=False,
        init=(("(embedding|kernel)$", 0.02), ("positions/axis_", 0.02)),
    )
    config.model.axial.update(shape=(512,), dims=(768,))
    config.model.linformer.update(n_projected=256, max_length=512, sharing="headwise")
    config.optimizer.update(
        name="adamw",
        schedule="cosine",
        learning_rate=6e-4,
        warmup=24_000,
        b1=0.9,
        b2=0.98,
        eps=1e-6,
        weight_decay=0.01,
        clip_norm=0.0,
    )
    config.eval.update(every=1000, context=512, stride=256, batch_size=64, limit=655_360, metric="masked_bits_per_byte")
    config.checkpoint.every = 1000
    config.sample.length = 0
    if preset == "tiny":
        tiny(config)
    return config.lock()


def tiny(config):
    """Four layers over windows of 128 bytes, mixed to 32."""
    config.steps = 1000
    config.batch_size = 8
    config.data.update(name="enwik8_sample", length=128)
    config.model.update(
        d_model=128,
        d_ff=256,
        n_heads=2,
        head_dim=64,
        n_layers=4,
        norm="pre",
        dropout=0.0,
        attention_dropout=0.0,
        init=(),
    )
    config.model.axial.update(shape=(128,), dims=(128,), init_scale=0.1)
    config.model.linformer.update(n_projected=32, max_length=128)
    config.optimizer.update(learning_rate=2e-3, warmup=50, clip_norm=1.0)
    config.eval.update(every=250, context=128, stride=64, batch_size=32, limit=10_000)
    config.checkpoint.every = 250
    config.log_every = 20
