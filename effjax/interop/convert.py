"""From a foreign state dict and its `config.json` to a configuration and parameters, and back."""

from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from effjax.errors import UserError
from effjax.interop.architecture import Architecture, differences, experiment
from effjax.interop.big_bird import BIG_BIRD
from effjax.interop.longformer import LONGFORMER
from effjax.interop.reformer import REFORMER
from effjax.interop.rules import to_ours, to_theirs
from effjax.interop.settings import Settings
from effjax.interop.transformer_xl import TRANSFORMER_XL
from effjax.tasks import make_task

ARCHITECTURES = {kind.model_type: kind for kind in (BIG_BIRD, LONGFORMER, REFORMER, TRANSFORMER_XL)}
NO_TASK = {
    "led": "an LED's tokenizer is not known here, so that no task trains it; effjax.interop.import_led",
    "wav2vec2-conformer": "of a wav2vec2-conformer the encoder alone has a place here, and no task trains that; "
    "effjax.interop.import_conformer",
}
VOCABULARIES = {("reformer", 258): "bytes+2", ("transfo-xl", 267_735): "words:267735"}  # of the published models


def import_state_dict(
    settings: Mapping, tensors: Mapping[str, np.ndarray], *, vocabulary: str = "", source: str = "the state dict"
) -> tuple[ConfigDict, dict]:
    """Reads a foreign model.

    Args:
      settings: its `config.json`.
      tensors: by name; arrays, or what `np.asarray` makes one of.
      vocabulary: a name of `effjax.data.vocabularies`; "": the published model's, where it is known here, else `ids:N`.
      source: what they come from, for errors.

    Returns:
      `(config, params)`: a whole configuration, for `effjax.tasks.make_task`, and parameters, float32.

    Raises:
      UserError: an architecture or a setting that is not known here, or tensors that do not fit, listed.
    """
    settings = Settings(settings, source)
    kind = settings("model_type")
    if kind in NO_TASK:
        raise UserError(f"{source}: {NO_TASK[kind]} reads it, and so does python -m effjax.convert")
    if kind not in ARCHITECTURES:
        raise UserError(f"{source}: config.json has model_type={kind!r}; {', '.join(ARCHITECTURES)} is allowed")
    architecture, size = ARCHITECTURES[kind], settings("vocab_size")
    config = experiment(
        architecture.read(settings, frozenset(tensors)),
        task=architecture.task(settings),
        vocab_size=size,
        vocabulary=vocabulary or VOCABULARIES.get((kind, size), ""),
    )
    params = make_task(config).abstract_params
    return config, to_ours(architecture.layout(config.model), tensors, params, source=source)


def export_state_dict(config: ConfigDict, params) -> tuple[dict, dict[str, np.ndarray]]:
    """Writes a model in the layout of an architecture that computes the same.

    Args:
      config: the model's whole configuration.
      params: its parameters.

    Returns:
      `(settings, tensors)`: `config.json`, and tensors by name.

    Raises:
      UserError: no such architecture, or fields of the model that it does not have, listed.
    """
    architecture = _architecture_of(config)
    settings = architecture.write(config.model, make_task(config).model.vocab_size)
    layout = architecture.layout(config.model)
    differ = differences(config.model, architecture.read(Settings(settings, "the export"), layout.names()))
    if differ:
        raise UserError(f"a {architecture.model_type} model there is not this model: {'; '.join(differ)}")
    return settings, to_theirs(layout, params)


def _architecture_of(config) -> Architecture:
    mixers = set(config.model.pattern)
    for architecture in ARCHITECTURES.values():
        if architecture.write and mixers <= architecture.mixers and config.task == "masked_language_modelling":
            return architecture
    readable = ", ".join(name for name, architecture in ARCHITECTURES.items() if architecture.write)
    raise UserError(
        f"task={config.task!r} with pattern={tuple(config.model.pattern)} has no layout that another library reads; "
        f"encoders of one family out of {readable} are allowed"
    )
