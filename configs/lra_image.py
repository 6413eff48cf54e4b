"""Long Range Arena, Image: CIFAR-10 as 1,024 grey pixels in a row (Tay et al. 2021, 2011.04006).

Presets, `--config=configs/lra_image.py:PRESET`; `--config.mixer=` as in `configs/lra_text.py`:

- none: the public code's Transformer: 1 layer, 128/128, 8 heads of 8, dropout 0.3, learned positions, 35,000 steps of
  256 (200 epochs), cosine. The code has a size of its own for each model; here all mixers get the Transformer's. The
  paper's text has no other size. Published, accuracy: Transformer 42.44, Longformer 42.22, Linformer 38.56,
  Performer 42.77, Reformer 38.07, Sparse Transformer 44.24, BigBird 40.83. Not run.
- tiny: 2 layers, 64/128, the same pixels, for tests.

      python -m effjax.train --config=configs/lra_image.py --workdir=runs/image
      python -m effjax.predict --workdir=runs/image picture.png

Pictures come from cifar-10-binary.tar.gz at `--config.data.path=`, or else from TensorFlow Datasets, which takes
TensorFlow to prepare pictures. A tenth of the training
pictures is the valid split. What differs from the public code: see `configs/lra_text.py`; attention dropout is 0.2.
"""

import pathlib

from effjax.errors import UserError
from effjax.models.arena import arena_model, fit_to_length
from effjax.tasks.classification import classification_options
from effjax.training.config import load_config

TEXT = pathlib.Path(__file__).with_name("lra_text.py")
PRESETS = ("", "tiny")
EPOCH = 45_000 // 256


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = load_config(f"{TEXT}:{preset}").unlock()
    config.data.update(name="cifar10", vocabulary="grey")
    config.options = classification_options("cifar10")
    if preset == "tiny":
        config.model.positions = "axial"
        fit_to_length(config, 1024)
        return config.lock()
    config.steps = 200 * EPOCH
    config.batch_size = 256
    config.model = arena_model(d_model=128, d_qkv=64, n_heads=8, n_layers=1, d_ff=128, dropout=0.3)
    config.model.update(positions="axial", attention_dropout=0.2)
    config.optimizer.update(name="adam", schedule="cosine", learning_rate=5e-4, warmup=EPOCH, weight_decay=0.0)
    config.eval.update(every=5 * EPOCH, batch_size=256)
    config.checkpoint.every = 5 * EPOCH
    fit_to_length(config, 1024)
    return config.lock()
