"""Streams that keep keys, values and memories in 8 bits: a mixer's state in integers between two pieces."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from effjax.ops.quantize import quantize

NAMES = ("key", "value", "rows", "global_rows")  # fields of states that hold vectors, one after another in time


@partial(jax.tree_util.register_dataclass, data_fields=["codes", "scale"], meta_fields=[])
@dataclass
class SmallVectors:
    """Vectors `[..., H]` as int8 codes with one bfloat16 scale each, `[..., 1]`."""

    codes: Any
    scale: Any


def small_state(state):
    """The state with its keys, values and memories in integers; sums, counts and segments stay as they are.

    Rounding again what was rounded changes nothing (`effjax.ops.quantize.scale_of`): a vector is as exact after a
    thousand pieces as after one.
    """

    def small(path, leaf):
        names = {getattr(part, "name", None) for part in path}
        if not names & set(NAMES) or not jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.ndim < 3:
            return leaf
        codes, scale = quantize(leaf, axes=(leaf.ndim - 1,))
        return SmallVectors(codes, scale.astype(jnp.bfloat16))

    return jax.tree_util.tree_map_with_path(small, state)


def restored_state(state, dtype: Any):
    """The state as the mixer knows it, vectors in `dtype`."""
    is_small = lambda leaf: isinstance(leaf, SmallVectors)
    restore = lambda leaf: (leaf.codes * leaf.scale.astype(jnp.float32)).astype(dtype) if is_small(leaf) else leaf
    return jax.tree.map(restore, state, is_leaf=is_small)
