"""Flax Linen shells, one file per family: parameters, projections, dropout, state.

`MIXERS` names the token mixers as configurations do.
"""

from effjax.layers.adaptive_span import AdaptiveSpanAttention
from effjax.layers.feed_forward import FeedForward
from effjax.layers.full import FullAttention
from effjax.layers.local import LocalAttention
from effjax.layers.longformer import LongformerAttention
from effjax.layers.lsh import LSHAttention
from effjax.layers.mixer import Mixer
from effjax.layers.performer import PerformerAttention
from effjax.layers.positions import AxialPositions, FactorisedPositions, SinusoidalPositions
from effjax.layers.transformer_xl import TransformerXLAttention
from effjax.layers.vocabulary import Vocabulary

MIXERS = {
    "adaptive_span": AdaptiveSpanAttention,
    "full": FullAttention,
    "local": LocalAttention,
    "longformer": LongformerAttention,
    "lsh": LSHAttention,
    "performer": PerformerAttention,
    "transformer_xl": TransformerXLAttention,
}

__all__ = [
    "MIXERS",
    "AdaptiveSpanAttention",
    "AxialPositions",
    "FactorisedPositions",
    "FeedForward",
    "FullAttention",
    "LSHAttention",
    "LocalAttention",
    "LongformerAttention",
    "Mixer",
    "PerformerAttention",
    "SinusoidalPositions",
    "TransformerXLAttention",
    "Vocabulary",
]
