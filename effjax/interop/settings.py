"""A foreign `config.json`, field by field, and what of it has no counterpart here."""

from collections.abc import Mapping
from typing import Any

from effjax.errors import UserError

REQUIRED = object()
ACTIVATIONS = {  # theirs: ours
    "gelu": "gelu_exact",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "quick_gelu": "quick_gelu",
}


class Settings:
    """The fields of a foreign configuration; what is missing or not to be had is an error that names it.

    Args:
      values: of `config.json`.
      source: where they come from, for errors.
    """

    def __init__(self, values: Mapping[str, Any], source: str):
        self.values, self.source = values, source

    def __call__(self, name: str, default: Any = REQUIRED):
        """The value of a field; where the file leaves it out, the default that its library has."""
        value = self.values.get(name, default)
        if value is REQUIRED:
            raise UserError(f"{self.source}: config.json lacks {name!r}")
        return value

    def only(self, name: str, allowed: tuple, default: Any, why: str) -> None:
        """Raises UserError where a field has a value that no model here has."""
        value = self(name, default)
        if value not in allowed:
            options = " or ".join(repr(value) for value in allowed)
            raise UserError(f"{self.source}: config.json has {name}={value!r}, {options} is allowed: {why}")

    def activation(self, name: str, default: str = REQUIRED) -> str:
        """Our name of an activation."""
        self.only(name, tuple(ACTIVATIONS), default, "no other activation is known here")
        return ACTIVATIONS[self(name, default)]


def foreign_activation(name: str) -> str:
    """Their name of an activation."""
    return next(theirs for theirs, ours in ACTIVATIONS.items() if ours == name)
