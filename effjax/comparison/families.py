"""The families of a comparison at sizes such as the papers have: windows of 512, 256 features, strides near sqrt(n)."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from effjax.comparison.measure import Shapes
from effjax.layers import MIXERS, Mixer


def family(mixer: str, options: Callable[[int], dict[str, Any]] | None = None, **fixed) -> Callable[..., Mixer]:
    """Constructor `make(length, shapes)` of a family's layer.

    Args:
      mixer: a name of `effjax.layers.MIXERS`.
      options: attributes that depend on the length.
      **fixed: attributes that do not.
    """

    def make(length: int, shapes: Shapes) -> Mixer:
        sizes = dict(d_model=shapes.d_model, n_heads=shapes.n_heads, head_dim=shapes.head_dim)
        return MIXERS[mixer](**sizes, dtype=jnp.dtype(shapes.dtype), **fixed, **(options(length) if options else {}))

    return make


def stride(length: int) -> int:
    """The power of two nearest to sqrt(n), on a logarithmic scale."""
    return 2 ** round(math.log2(length) / 2)


FAMILIES = {
    "full": family("full"),
    "local": family("local", chunk_size=256),
    "window": family("window", window=512),
    "lsh": family("lsh", chunk_size=64, n_hashes=4),
    "strided": family("strided", lambda length: dict(stride=stride(length))),
    "fixed": family("fixed", lambda length: dict(block=stride(length), summary=max(stride(length) // 4, 1))),
    "log_sparse": family("log_sparse"),
    "big_bird": family("big_bird"),
    "longformer": family("longformer", window=512, global_tokens=1),
    "adaptive_span": family("adaptive_span", max_span=512, initial_span=1.0),
    "transformer_xl": family("transformer_xl", memory_length=512, same_length=True),  # as when it is evaluated
    "performer": family("performer", n_features=256),
    "depthwise_conv": family("depthwise_conv", kernel_size=31),
    "light_conv": family("light_conv", kernel_size=31),
    "dynamic_conv": family("dynamic_conv", kernel_size=31),
    "lsra": family("lsra", kernel_size=31),
    "full_both_sides": family("full", causal=False),
    "linformer": family("linformer", lambda length: dict(max_length=length), n_projected=256),
    "nystromformer": family("nystromformer", n_landmarks=64),
}
BOTH_SIDES = ("full_both_sides", "linformer", "nystromformer")  # the first is what the others are to overtake
