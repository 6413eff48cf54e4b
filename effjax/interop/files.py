"""Foreign checkpoints on disk: `config.json` beside safetensors. A pickle can run any code, and is never read."""

import json
import os
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from effjax.errors import UserError

WEIGHTS, INDEX, SETTINGS = "model.safetensors", "model.safetensors.index.json", "config.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "BOOL": "bool"}
DTYPES |= {f"{kind[0].upper()}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}


class StoredTensor:
    """A tensor of a safetensors file, read when `np.asarray` asks for it."""

    def __init__(self, file, name: str):
        self._file, self._name = file, name
        view = file.get_slice(name)
        self.shape, kind = tuple(view.get_shape()), view.get_dtype()
        if kind not in DTYPES:
            raise UserError(f"tensor {name} is stored as {kind}; one of {', '.join(DTYPES)} is allowed")
        self.dtype = jnp.dtype(DTYPES[kind])

    def __array__(self, dtype=None, copy=None):
        with jax.default_device(jax.devices("cpu")[0]):
            return np.asarray(self._file.get_tensor(self._name), dtype)


def read_checkpoint(source: str) -> tuple[dict, dict[str, StoredTensor]]:
    """Settings and tensors of a checkpoint in Hugging Face's form.

    Args:
      source: a folder with `config.json` and `model.safetensors` (or its pieces and their index), or the safetensors
        file itself, beside which `config.json` lies.

    Returns:
      `(settings, tensors)`; tensors by name, not yet read.

    Raises:
      UserError: something is missing, damaged, or a pickle.
    """
    path = pathlib.Path(source).expanduser()
    if path.suffix in PICKLES:
        raise UserError(f"--from={source}: {PICKLE_REASON}")
    if not path.exists():
        raise UserError(f"--from={source}: there is no such file or folder")
    folder = path if path.is_dir() else path.parent
    if not path.is_dir() and path.suffix != ".safetensors":
        raise UserError(f"--from={source}: a folder or a .safetensors file is allowed")
    files = _weight_files(folder) if path.is_dir() else [path]
    settings = read_json(folder / SETTINGS)
    tensors = {}
    for file in files:
        try:
            opened = safetensors.safe_open(file, framework="flax")
            tensors |= {name: StoredTensor(opened, name) for name in opened.keys()}
        except (safetensors.SafetensorError, OSError) as error:
            raise UserError(f"{file} cannot be read: {error}") from error
    return settings, tensors


def write_checkpoint(folder: pathlib.Path, settings: Mapping, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes `config.json` and `model.safetensors` into a folder that exists."""
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    safetensors.numpy.save_file(dict(tensors), folder / WEIGHTS, metadata={"format": "pt"})


def read_json(path: pathlib.Path) -> dict:
    """A JSON object.

    Raises:
      UserError: there is none.
    """
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path.parent}: there is no {path.name}, which says what the weights are") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no JSON object")
    return values


def _weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    if (folder / INDEX).exists():
        pieces = sorted(set(read_json(folder / INDEX).get("weight_map", {}).values()))
        for piece in pieces:
            if os.path.basename(piece) != piece or not (folder / piece).exists():
                raise UserError(f"{folder / INDEX} names {piece!r}, which is no file of this folder")
        return [folder / piece for piece in pieces]
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise UserError(f"{folder} holds {', '.join(pickles)} and no {WEIGHTS}: {PICKLE_REASON}")
    raise UserError(f"{folder}: there is no {WEIGHTS}")


PICKLE_REASON = (
    "a pickle can run any code when it is read, and is never read here; write it as safetensors where you trust it "
    "(transformers: model.save_pretrained(folder, safe_serialization=True))"
)
