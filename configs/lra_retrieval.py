"""Long Range Arena, Retrieval: does one paper of the ACL Anthology cite the other? (Tay et al. 2021, 2011.04006).

Both papers, byte by byte, go through one encoder to a vector each; a head reads the two vectors.

Presets, `--config=configs/lra_retrieval.py:PRESET`; `--config.mixer=` as in `configs/lra_text.py`:

- none: the public code's hyper-parameters: 4 layers, 128/512, 4 heads, twice 4,000 bytes, 5,000 steps of 32, of a
  warm-up of 8,000 that never ends. The paper's text has no other size. Published, accuracy: Transformer 57.46,
  Longformer 56.89, Linformer 52.27, Performer 53.82, Reformer 53.40, Sparse Transformer 59.59, BigBird 59.29. Not run.
- tiny: 2 layers, 64/128, twice 128 bytes, for tests and first steps, on paragraphs of the sample of Wikipedia that
  ships with the package: does the second follow the first?

      python -m effjax.train --config=configs/lra_retrieval.py --workdir=runs/retrieval --config.data.path=tsv_data
      python -m effjax.predict --workdir=runs/retrieval "$(printf 'first text\tsecond text')"

The official files new_aan_pairs.{train,eval,test}.tsv lie in the folder or archive at `--config.data.path=`.
`--config.options.interaction=nli` gives the head products and differences too. What differs from the public code: see
`configs/lra_text.py`.
"""

import pathlib

from effjax.errors import UserError
from effjax.models.arena import arena_model, fit_to_length
from effjax.tasks.classification import classification_options
from effjax.training.config import load_config

TEXT = pathlib.Path(__file__).with_name("lra_text.py")
PRESETS = ("", "tiny")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = load_config(f"{TEXT}:{preset}").unlock()
    config.data.name = "aan"
    config.options = classification_options("aan")
    if preset == "tiny":
        config.data.name = "wikipedia_passages"
        fit_to_length(config, 128)
        return config.lock()
    config.steps = 5000
    config.model = arena_model(d_model=128, n_heads=4, n_layers=4, d_ff=512, dropout=0.1)
    fit_to_length(config, 4000)
    config.eval.every = config.checkpoint.every = 500
    return config.lock()
