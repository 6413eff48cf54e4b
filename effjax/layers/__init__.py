"""Flax Linen shells, one file per family: parameters, projections, dropout, state.

`MIXERS` names the token mixers as configurations do.
"""

from effjax.layers.feed_forward import FeedForward
from effjax.layers.full import FullAttention
from effjax.layers.local import LocalAttention
from effjax.layers.lsh import LSHAttention
from effjax.layers.mixer import Mixer
from effjax.layers.positions import AxialPositions, SinusoidalPositions

MIXERS = {"full": FullAttention, "local": LocalAttention, "lsh": LSHAttention}

__all__ = [
    "MIXERS",
    "AxialPositions",
    "FeedForward",
    "FullAttention",
    "LSHAttention",
    "LocalAttention",
    "Mixer",
    "SinusoidalPositions",
]
