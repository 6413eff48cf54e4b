"""Data sets of labelled documents by name: a module each, with

- `CLASSES`, their names; `PAIRS = True` where an example is two documents;
- `OPTIONS`, the fields of `config.options` that it reads, with their defaults;
- `vocab_size(config)`, the number of ids;
- `encode(config, data: bytes)`, the ids of one document; `read_input(config, data)` where a file is no such document;
- `load(config)`, the splits "train", "valid" and "test", `effjax.data.labelled.Labelled` each.
"""

import difflib
import importlib
from types import ModuleType

from effjax.errors import UserError

SOURCES = (
    "listops",
    "imdb",
    "aan",
    "cifar10",
    "pathfinder",
    "hyperpartisan",
    "wikipedia_people",
    "wikipedia_passages",
)


def get_source(name: str) -> ModuleType:
    """The module of a data set.

    Raises:
      UserError: there is none of that name.
    """
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"config.data.name={name!r}; one of {', '.join(SOURCES)} is allowed for classification{hint}")
    return importlib.import_module(f"effjax.data.{name}")
