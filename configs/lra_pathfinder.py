"""Long Range Arena, Pathfinder: are two dots in a picture of 32 x 32 joined by a dashed path? (Tay et al. 2021).

Presets, `--config=configs/lra_pathfinder.py:PRESET`; `--config.mixer=` as in `configs/lra_text.py`:

- none: the public code's hyper-parameters: 4 layers, 32/32, 4 heads of 4, mean of all positions, 62,400 steps of 512
  (200 epochs), cosine. The paper's text has no other size. Published, accuracy: Transformer 71.40, Longformer 69.71,
  Linformer 76.34, Performer 77.05, Reformer 68.50, Sparse Transformer 71.71, BigBird 74.87. Not run.
- path_x: 128 x 128, batches of 64; all published models fail, at chance. Not run.
- tiny: 2 layers, 64/128, the same pictures, for tests.

      python -m effjax.train --config=configs/lra_pathfinder.py --workdir=runs/path --config.data.path=lra_release.gz
      python -m effjax.predict --workdir=runs/path picture.png

The pictures are those of the arena's release, an archive or the folder that it makes; `options.difficulty` picks the
longest paths, as the arena does. Pictures without a byte, which the release has, are counted and left out. What differs
from the public code: see `configs/lra_text.py`; with a mean no token stands before the pixels and none is global.
"""

import pathlib

from effjax.errors import UserError
from effjax.models.arena import arena_model, fit_to_length
from effjax.tasks.classification import classification_options
from effjax.training.config import load_config

TEXT = pathlib.Path(__file__).with_name("lra_text.py")
PRESETS = ("", "path_x", "tiny")
EPOCH = 160_000 // 512


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = load_config(f"{TEXT}:{'tiny' if preset == 'tiny' else ''}").unlock()
    config.data.update(name="pathfinder", vocabulary="grey")
    config.options = classification_options("pathfinder")
    if preset == "tiny":
        fit_to_length(config, 1024, pooling="mean")
        return config.lock()
    config.steps = 200 * EPOCH
    config.batch_size = 512
    config.model = arena_model(d_model=32, d_qkv=16, n_heads=4, n_layers=4, d_ff=32, dropout=0.2)
    config.model.attention_dropout = 0.1
    config.optimizer.update(name="adam", schedule="cosine", learning_rate=1e-3, warmup=EPOCH, weight_decay=0.0)
    config.eval.update(every=5 * EPOCH, batch_size=512)
    config.checkpoint.every = 5 * EPOCH
    fit_to_length(config, 1024, pooling="mean")
    if preset == "path_x":
        config.options.side = 128
        config.batch_size = config.eval.batch_size = 64
        config.steps = 200 * (160_000 // 64)
        config.optimizer.clip_norm = 1.0
        fit_to_length(config, 128 * 128, pooling="mean")
    return config.lock()
