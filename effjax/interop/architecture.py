"""What each foreign architecture says of itself, and the experiment that an imported model becomes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ml_collections import ConfigDict

from effjax.data.vocabularies import get_vocabulary
from effjax.errors import UserError
from effjax.interop.rules import Layout
from effjax.interop.settings import Settings
from effjax.layers import MIXERS
from effjax.models.build import DECODER_SHARDING
from effjax.training.config import base_config, flatten

# Fields of a model that do not change what it computes in evaluation, or hold for what it does not use.
INDIFFERENT = (
    "init", "remat", "ff_chunk_size", "loss_chunk_size", "dropout", "hidden_dropout", "attention_dropout", "axial.",
    "factorised.", "adaptive.", "learned.init_scale", "longformer.max_global", "longformer.frozen", "big_bird.seed",
)  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """One foreign architecture.

    Attributes:
      model_type: as in its `config.json`.
      mixers: names of the mixers that its layers are here.
      task: of the models that it gives.
      read: `(settings, names of tensors) -> model section`.
      layout: `model section -> Layout`.
      write: `(model section, vocab_size) -> config.json`; None where nobody reads the layout any more.
    """

    model_type: str
    mixers: frozenset[str]
    task: Callable[[Settings], str]
    read: Callable[[Settings, frozenset[str]], ConfigDict]
    layout: Callable[[ConfigDict], Layout]
    write: Callable[[ConfigDict, int], dict] | None = None


def experiment(model: ConfigDict, *, task: str, vocab_size: int, vocabulary: str) -> ConfigDict:
    """A whole configuration around an imported model, which `evaluate`, `generate` and `train` take.

    Args:
      model: its section.
      task: "language_modelling" or "masked_language_modelling".
      vocab_size: ids that the model knows.
      vocabulary: a name of `effjax.data.vocabularies`; "": `ids:N`, numbers whose text is not known here.

    Raises:
      UserError: a vocabulary of another size.
    """
    size = vocab_size - (task == "masked_language_modelling")  # whose models have one id more, the mask
    name = vocabulary or f"ids:{size}"
    if get_vocabulary(name).size != size:
        raise UserError(f"--vocabulary={name} has {get_vocabulary(name).size} ids; the model needs one of {size}")
    config = base_config().unlock()
    config.update(task=task, model=model, sharding=DECODER_SHARDING)
    config.data.vocabulary = name
    bits = "bits_per_symbol" if get_vocabulary(name).drops_bytes else "bits_per_byte"
    config.eval.metric = bits if task == "language_modelling" else f"masked_{bits}"
    if name.startswith("words:"):
        config.data.name = "wikitext103"
        config.eval.metric = "perplexity"
    longest = {"learned": model.learned.length, "axial": math.prod(model.axial.shape)}.get(model.positions, 512)
    length = min(512, longest)
    config.data.length = config.eval.context = length
    config.eval.stride = max(length // 2, 1)
    if set(model.pattern) == {"transformer_xl"}:
        config.data.reader = config.eval.reader = "streams"
    readable = task == "language_modelling" and not name.startswith("ids:") and length >= 16
    config.sample.update(prompt="The " if readable else "", length=length // 2 if readable else 0)
    return config.lock()


def differences(ours: ConfigDict, foreign: ConfigDict) -> list[str]:
    """Fields in which a model is not what its foreign form would be read as, each with both values."""
    ours, foreign = by_layer(ours), by_layer(foreign)
    names = [name for name in sorted(ours | foreign) if not name.startswith(INDIFFERENT)]
    return [
        f"model.{name}={ours.get(name)!r} ({foreign.get(name)!r} there)"
        for name in names
        if ours.get(name) != foreign.get(name)
    ]


def by_layer(model: ConfigDict) -> dict:
    """A model's fields, those of blocks spelt out for each layer, so that its period does not matter."""
    fields, pattern = flatten(model), tuple(model.pattern)
    spell_out = lambda values: tuple(values) * (model.n_layers // len(values))
    fields["pattern"] = spell_out(pattern)
    for mixer in set(pattern):
        for name in MIXERS[mixer].per_block:
            fields[f"{mixer}.{name}"] = spell_out(fields[f"{mixer}.{name}"])
    return fields
