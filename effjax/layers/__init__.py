"""Flax Linen shells, one file per family: parameters, projections, dropout, state.

`MIXERS` names the token mixers as configurations do.
"""

from effjax.layers.adaptive_softmax import AdaptiveVocabulary
from effjax.layers.adaptive_span import AdaptiveSpanAttention
from effjax.layers.conformer_convolution import ConformerConvolution
from effjax.layers.convolution import DepthwiseConvolution, DynamicConvolution, LightConvolution
from effjax.layers.feed_forward import FeedForward
from effjax.layers.full import FullAttention
from effjax.layers.linformer import LinformerAttention
from effjax.layers.local import LocalAttention
from effjax.layers.longformer import LongformerAttention
from effjax.layers.lsh import LSHAttention
from effjax.layers.lsra import LSRA
from effjax.layers.mixer import Mixer
from effjax.layers.nystromformer import NystromAttention
from effjax.layers.performer import PerformerAttention
from effjax.layers.positions import AxialPositions, FactorisedPositions, LearnedPositions, SinusoidalPositions
from effjax.layers.sparse import BigBirdAttention, FixedAttention, LogSparseAttention, StridedAttention
from effjax.layers.transformer_xl import TransformerXLAttention
from effjax.layers.vocabulary import Vocabulary
from effjax.layers.window import WindowAttention

MIXERS = {
    "adaptive_span": AdaptiveSpanAttention,
    "big_bird": BigBirdAttention,
    "depthwise_conv": DepthwiseConvolution,
    "dynamic_conv": DynamicConvolution,
    "fixed": FixedAttention,
    "full": FullAttention,
    "light_conv": LightConvolution,
    "linformer": LinformerAttention,
    "local": LocalAttention,
    "log_sparse": LogSparseAttention,
    "longformer": LongformerAttention,
    "lsh": LSHAttention,
    "lsra": LSRA,
    "nystromformer": NystromAttention,
    "performer": PerformerAttention,
    "strided": StridedAttention,
    "transformer_xl": TransformerXLAttention,
    "window": WindowAttention,
}

__all__ = [
    "LSRA",
    "MIXERS",
    "AdaptiveSpanAttention",
    "AdaptiveVocabulary",
    "AxialPositions",
    "BigBirdAttention",
    "ConformerConvolution",
    "DepthwiseConvolution",
    "DynamicConvolution",
    "FactorisedPositions",
    "FeedForward",
    "FixedAttention",
    "FullAttention",
    "LSHAttention",
    "LearnedPositions",
    "LightConvolution",
    "LinformerAttention",
    "LocalAttention",
    "LogSparseAttention",
    "LongformerAttention",
    "Mixer",
    "NystromAttention",
    "PerformerAttention",
    "SinusoidalPositions",
    "StridedAttention",
    "TransformerXLAttention",
    "Vocabulary",
    "WindowAttention",
]
