"""Long Range Arena, ListOps: what a nested list of digits under MIN, MAX, MED and SM comes to (Tay et al. 2021).

Presets, `--config=configs/lra_listops.py:PRESET`; `--config.mixer=` as in `configs/lra_text.py`:

- none: the public code's hyper-parameters: 4 layers, 512/1024, 8 heads, 2,000 tokens, 5,000 steps of 32. Not trained
  here; experiments/lra has runs at a small budget.
- paper: as its text says: 6 layers, 512/2048. Published, accuracy: Transformer 36.37, Longformer 35.63, Linformer
  35.70, Performer 18.01, Reformer 37.27, Sparse Transformer 17.07, BigBird 36.05. Not trained here.
- tiny: shallow lists of 20 to 120 tokens, for tests and first steps.

      python -m effjax.train --config=configs/lra_listops.py:tiny --workdir=runs/listops
      python -m effjax.predict --workdir=runs/listops "[MAX 2 9 [MIN 4 7 ] 0 ]"

The 96,000/2,000/2,000 lists of 500 to 2,000 tokens are generated with `options.data_seed` (two minutes), or read from
the official files basic_train.tsv, basic_val.tsv and basic_test.tsv with `--config.data.path=FOLDER`. Round brackets,
which the public code drops too, are no tokens. What differs from the public code: see `configs/lra_text.py`.
"""

import pathlib

from effjax.errors import UserError
from effjax.models.arena import arena_model, fit_to_length
from effjax.tasks.classification import classification_options
from effjax.training.config import load_config

TEXT = pathlib.Path(__file__).with_name("lra_text.py")
PRESETS = ("", "paper", "tiny")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = load_config(f"{TEXT}:{'tiny' if preset == 'tiny' else ''}").unlock()
    config.data.name, config.data.vocabulary = "listops", "listops"
    config.options = classification_options("listops")
    if preset == "tiny":
        config.options.update(sizes=(2000, 200, 200), max_depth=4, max_args=5, min_tokens=20, max_tokens=120)
        fit_to_length(config, 120)
        return config.lock()
    config.steps = 5000
    config.model = arena_model(d_model=512, n_heads=8, n_layers=4, d_ff=1024, dropout=0.1)
    if preset == "paper":
        config.model.update(d_ff=2048, n_layers=6)
    config.optimizer.warmup = 1000
    fit_to_length(config, 2000)
    config.eval.every = config.checkpoint.every = 500
    return config.lock()
