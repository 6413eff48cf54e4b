"""Imported models that no task here trains, as folders: an LED, the encoder of a Wav2Vec2-Conformer.

`model.json` keeps the foreign `config.json`, `params.safetensors` the variables under the names that they have here,
such as `params/encoder/positions/table`.
"""

import json
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from effjax.errors import UserError
from effjax.interop import led, wav2vec2_conformer
from effjax.interop.files import read_json
from effjax.interop.settings import Settings

MODEL, PARAMS = "model.json", "params.safetensors"


@dataclass(frozen=True)
class Kind:
    """One architecture.

    Attributes:
      build: settings to `(description, model, shapes of its tree)`.
      read: settings and foreign tensors to a tuple whose last is the tree.
      write: description and tree to settings and foreign tensors.
      within: the collection of variables that the tree is; "": it is all of them.
    """

    build: Callable[[Settings], tuple[Any, nn.Module, Any]]
    read: Callable[..., tuple]
    write: Callable[[Any, Any], tuple[dict, dict[str, np.ndarray]]]
    within: str = ""


KINDS = {
    led.MODEL_TYPE: Kind(led.build, led.import_led, led.export_led, within="params"),
    wav2vec2_conformer.MODEL_TYPE: Kind(
        wav2vec2_conformer.build, wav2vec2_conformer.import_conformer, wav2vec2_conformer.export_conformer
    ),
}


def is_bare_model(folder: str) -> bool:
    """Whether a path is such a folder."""
    return (pathlib.Path(folder).expanduser() / MODEL).is_file()


def save_bare_model(folder: pathlib.Path, settings: Mapping, tensors: Mapping[str, np.ndarray], source: str) -> None:
    """Writes a foreign model into a folder that exists.

    Raises:
      UserError: settings that are not known here, or tensors that do not fit, listed.
    """
    kind = KINDS[settings["model_type"]]
    tree = kind.read(settings, tensors, source=source)[-1]
    variables = {kind.within: tree} if kind.within else tree
    arrays = {name: np.ascontiguousarray(x) for name, x in flatten_dict(variables, sep="/").items()}
    (folder / MODEL).write_text(json.dumps(dict(settings), indent=2, sort_keys=True) + "\n")
    safetensors.numpy.save_file(arrays, folder / PARAMS)


def load_bare_model(folder: str, checkpoint: str = "latest") -> tuple[nn.Module, Any]:
    """The model of such a folder: `(model, params)` of an LED, `(encoder, variables)` of a Conformer.

    Raises:
      UserError: another checkpoint than the only one; files that are damaged or do not fit one another.
    """
    return _load(folder, checkpoint)[2:]


def export_bare_model(folder: str, checkpoint: str = "latest") -> tuple[dict, dict[str, np.ndarray]]:
    """The way back: settings and tensors in the foreign layout.

    Raises:
      UserError: as `load_bare_model`.
    """
    kind, description, _, tree = _load(folder, checkpoint)
    return kind.write(description, tree)


def _load(folder: str, checkpoint: str) -> tuple[Kind, Any, nn.Module, Any]:
    if checkpoint != "latest":
        raise UserError(f"{folder} is an imported model that no task trains: checkpoint={checkpoint!r}; 'latest' only")
    path = pathlib.Path(folder).expanduser()
    settings = Settings(read_json(path / MODEL), str(path / MODEL))
    name = settings("model_type")
    if name not in KINDS:
        raise UserError(f"{path / MODEL} has model_type={name!r}; {' or '.join(KINDS)} is allowed")
    kind = KINDS[name]
    description, model, shapes = kind.build(settings)
    try:
        arrays = safetensors.numpy.load_file(path / PARAMS)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path / PARAMS} cannot be read: {error}") from error
    expected = flatten_dict({kind.within: shapes} if kind.within else shapes, sep="/")
    misfits = [
        f"{name} {_form(arrays.get(name))}, expected {_form(expected.get(name))}"
        for name in sorted(arrays | expected)
        if _form(arrays.get(name)) != _form(expected.get(name))
    ]
    if misfits:
        raise UserError(f"{path / PARAMS} is not what {MODEL} says: {'; '.join(misfits)}")
    tree = unflatten_dict(arrays, sep="/")
    return kind, description, model, tree[kind.within] if kind.within else tree


def _form(array) -> str:
    return "absent" if array is None else f"{np.dtype(array.dtype).name}{list(array.shape)}"
