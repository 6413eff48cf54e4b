"""ListOps and Text of the Long Range Arena at a small budget, any mixer: `config.py:TASK`, `--config.mixer=MIXER`.

The arena's data, lengths, optimizer's betas and read-out; a model of 2 layers and width 64 instead of 4 layers and
width 512 (ListOps) or 256 (Text), a cosine instead of the slow root, and few steps. All mixers get the same.
"""

import pathlib

from effjax.errors import UserError
from effjax.models.arena import fit_to_length
from effjax.training.config import load_config

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
MIXERS = ("full", "longformer", "linformer", "performer", "lsh", "fixed", "big_bird")
STEPS = {"listops": 100, "text": 160}


def get_config(preset: str = "text"):
    if preset not in STEPS:
        raise UserError(f"preset={preset!r}; one of {', '.join(STEPS)} is allowed")
    config = load_config(f"{CONFIGS}/lra_{preset}.py").unlock()
    config.steps = STEPS[preset]
    config.batch_size = 8
    config.model.update(d_model=64, d_ff=128, n_heads=2, head_dim=32, n_layers=2, dropout=0.0, attention_dropout=0.0)
    config.model.longformer.window = (64,)
    config.model.linformer.n_projected = 64
    config.model.fixed.update(block=64, summary=8)
    config.model.big_bird.block = 32
    config.optimizer.update(schedule="cosine", learning_rate=3e-3, warmup=30, weight_decay=0.01, clip_norm=1.0)
    if preset == "listops":
        config.options.sizes = (4000, 500, 2000)
    fit_to_length(config, config.data.length)
    config.eval.update(every=STEPS[preset] // 2, batch_size=16, limit=200, test=False)
    config.checkpoint.update(every=STEPS[preset] // 2, keep=1)
    config.log_every = 20
    return config.lock()
