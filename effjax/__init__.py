"""effjax: efficient transformers in JAX and Flax, correct against their originals and comparable on equal terms.

The names below are what other projects may rely on; they are imported when first asked for, so that `import effjax`
and the reading of configurations need no JAX.

- `MIXERS`, `Mixer`: token mixers by name, Flax Linen modules with one call.
- `attention_fn`: a family as the `attention_fn` of Flax's multi-head attention.
- `Stack`, `Period`, `FeedForward`: blocks of any mixers, residual or reversible; `reversible_stack`: the same of any
  pure functions.
- `decoder_config`, `encoder_config`, `make_decoder`, `make_encoder`, `Decoder`, `Encoder`: whole models.
- `import_state_dict`, `export_state_dict`: weights in Hugging Face's layouts; `load_model`: what a run has trained.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "Decoder": "effjax.models.decoder",
    "Encoder": "effjax.models.encoder",
    "FeedForward": "effjax.layers",
    "MIXERS": "effjax.layers",
    "Mixer": "effjax.layers",
    "Period": "effjax.models.block",
    "Stack": "effjax.models.stack",
    "attention_fn": "effjax.layers.attention_fn",
    "decoder_config": "effjax.models.build",
    "encoder_config": "effjax.models.build",
    "export_state_dict": "effjax.interop",
    "import_state_dict": "effjax.interop",
    "load_model": "effjax.interop.workdirs",
    "make_decoder": "effjax.models.build",
    "make_encoder": "effjax.models.build",
    "reversible_stack": "effjax.ops.reversible",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'effjax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__():
    return [*globals(), *__all__]
