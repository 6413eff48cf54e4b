"""Long Range Arena, Text: IMDB reviews, byte by byte, positive or negative (Tay et al. 2021, 2011.04006).

Presets, `--config=configs/lra_text.py:PRESET`; `--config.mixer=NAME` puts any of `effjax.models.arena.BOTH_SIDES` into
every block (full, longformer, linformer, performer, lsh, fixed, big_bird, …), `--config.model.NAME.FIELD=` sets it up:

- none: the public code's hyper-parameters: 4 layers, 256/1024, 4 heads, 1,000 bytes, 20,000 steps of 32. Not trained
  here; experiments/lra has runs at a small budget.
- paper: as its text says: 6 layers, 512/2048, 8 heads, 4,000 bytes. Published, accuracy: Transformer 64.27, Longformer
  62.85, Linformer 53.94, Performer 65.40, Reformer 56.10, Sparse Transformer 63.58, BigBird 64.02. Not trained here.
- tiny: 2 layers, 64/128, 256 bytes, for tests and first steps, on paragraphs of the sample of Wikipedia that ships with
  the package: of a person or not.

      python -m effjax.train --config=configs/lra_text.py --workdir=runs/text --config.data.path=aclImdb_v1.tar.gz
      python -m effjax.predict --workdir=runs/text "A wonderful film, and not a minute too long."

Reviews come from the folder or archive aclImdb at `--config.data.path=`, or else from TensorFlow Datasets. What differs
from the public code: a tenth of the training reviews is held out for the valid split, where the code watches the test
split (`--config.options.valid_share=0` does so too; then nothing may be chosen by the valid score); weight decay spares
biases; Longformer's first token, from which the class is read, is global; LSH attends among tokens whose vectors hash
alike after normalising keys; the Sparse Transformer looks to both sides, where the code's is causal but for that token.
"""

from effjax.errors import UserError
from effjax.models.arena import arena_model, fit_to_length
from effjax.models.build import DECODER_SHARDING
from effjax.tasks.classification import classification_options
from effjax.training.config import base_config

PRESETS = ("", "paper", "tiny")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = base_config().unlock()
    config.task, config.mixer = "classification", "full"
    config.steps = 20_000
    config.batch_size = 32
    config.data.update(name="imdb", vocabulary="bytes")
    config.sharding = DECODER_SHARDING
    config.options = classification_options("imdb")
    config.model = arena_model(d_model=256, n_heads=4, n_layers=4, d_ff=1024, dropout=0.1)
    config.model.linformer.n_projected = 32
    config.optimizer.update(
        name="adamw", schedule="rsqrt", learning_rate=0.05, warmup=8000, weight_decay=0.1, clip_norm=0.0
    )
    config.eval.update(every=1000, batch_size=32, limit=0, metric="error_rate")
    config.checkpoint.every = 1000
    config.log_every = 100
    config.sample.length = 0
    fit_to_length(config, 1000)
    if preset == "paper":
        config.model.update(d_model=512, d_ff=2048, n_heads=8, head_dim=64, n_layers=6)
        fit_to_length(config, 4000)
    if preset == "tiny":
        tiny(config)
    return config.lock()


def tiny(config):
    """Two layers over 256 bytes of what ships with the package."""
    config.data.name = "wikipedia_people"
    config.steps = 300
    config.batch_size = 16
    config.model.update(d_model=64, d_ff=128, n_heads=2, head_dim=32, n_layers=2, dropout=0.0, attention_dropout=0.0)
    config.model.longformer.window = (32,)
    config.model.fixed.update(block=16, summary=4)
    config.model.big_bird.block = 16
    fit_to_length(config, 256)
    config.optimizer.update(schedule="cosine", learning_rate=1e-3, warmup=30, weight_decay=0.01, clip_norm=1.0)
    config.eval.update(every=100, batch_size=64, limit=500)
    config.checkpoint.every = 100
    config.log_every = 20
