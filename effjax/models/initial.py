"""Initial parameters by rule, where a paper's differ from the layers' own."""

import re
import zlib

import jax
import jax.numpy as jnp

from effjax.errors import UserError


def redraw(params, rules: tuple[tuple[str, float], ...], key: jax.Array):
    """Draws parameters anew as rules say.

    Args:
      params: nested dict of parameters as the layers made them.
      rules: pairs (path regex, standard deviation); of those that match a path such as
        `stack/period/mixing_0/mixer/query/kernel`, the first holds: normal with mean 0, zeros where it is 0. Parameters
        that no rule matches stay as they are.
      key: PRNG key.

    Returns:
      The parameters.

    Raises:
      UserError: a rule that is no such pair, or matches nothing.
    """
    for rule in rules:
        match rule:
            case (str(pattern), float(deviation) | int(deviation)) if deviation >= 0:
                _check_regex(pattern)
            case _:
                raise UserError(
                    f"config.model.init: rule {rule!r} is no pair (path regex, standard deviation of 0 or more)"
                )
    used = set()

    def draw(path, leaf):
        path = "/".join(part.key for part in path)
        for pattern, deviation in rules:
            if re.search(pattern, path):
                used.add(pattern)
                own = jax.random.fold_in(key, _number(path))
                return deviation * jax.random.normal(own, leaf.shape, leaf.dtype)
        return leaf

    params = jax.tree_util.tree_map_with_path(draw, params)
    for pattern, _ in rules:
        if pattern not in used:
            raise UserError(f"config.model.init: {pattern!r} matches no parameter that an earlier rule left")
    return params


def _check_regex(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f"config.model.init: {pattern!r} is no regex: {error}") from error


def _number(path: str) -> jnp.uint32:
    """A number of its own for a path, the same in every process."""
    return jnp.uint32(zlib.crc32(path.encode()))
