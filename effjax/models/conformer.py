"""Conformer: an encoder of sound, whose blocks put attention and convolution between two half feed-forwards."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from effjax.layers.conformer_attention import ConformerAttention
from effjax.layers.conformer_convolution import ConformerConvolution
from effjax.layers.feed_forward import FeedForward
from effjax.layers.mixer import at_least_one, neutralise, probability
from effjax.layers.recent import RecentRows
from effjax.layers.subsampling import FACTOR, ConvolutionalSubsampling, SubsamplingState
from effjax.ops.convolution import Tail

# The paper's models: width and number of blocks, heads, width of the decoder's LSTM. Table 1.
SIZES = {
    "small": dict(d_model=144, n_layers=16, n_heads=4, decoder_width=320),
    "medium": dict(d_model=256, n_layers=16, n_heads=4, decoder_width=640),
    "large": dict(d_model=512, n_layers=17, n_heads=8, decoder_width=640),
}


@flax.struct.dataclass
class BlockState:
    """What a block remembers of a stream."""

    attention: RecentRows
    convolution: Tail


@flax.struct.dataclass
class EncoderState:
    """What an encoder remembers of a stream; blocks along the first axis."""

    subsampling: SubsamplingState | None
    blocks: BlockState


class ConformerBlock(nn.Module):
    """One block; every part but the last norm is a residual branch that begins with a norm.

        x1 = x + FF1(x) / 2,   x2 = x1 + MHSA(x1),   x3 = x2 + Conv(x2),   y = LN(x3 + FF2(x3) / 2)

    Attributes: see `ConformerEncoder`.

    Source: Gulati et al. 2020 (2005.08100), section 2.4.
    """

    d_model: int
    n_heads: int
    kernel_size: int = 32
    d_ff: int = 0
    activation: str = "silu"
    position_encoding: str = "relative"
    chunk_size: int = 0
    left_chunks: int = 4
    dropout_rate: float = 0.0
    convolution_bias: bool = True
    norm_momentum: float = 0.99
    norm_epsilon: float = 1e-5
    dtype: Any = jnp.float32

    def setup(self):
        feed = dict(d_ff=self.d_ff or 4 * self.d_model, activation=self.activation, dropout_rate=self.dropout_rate)
        self.feed_forward_1, self.feed_forward_2 = (
            FeedForward(self.d_model, dropout_over_time=False, dtype=self.dtype, **feed) for _ in range(2)
        )
        self.attention, self.convolution = self.make_attention(), self.make_convolution()
        self.norms = [nn.LayerNorm(self.norm_epsilon, dtype=self.dtype) for _ in range(5)]
        self.dropout = nn.Dropout(self.dropout_rate)

    def __call__(self, x, state=None, padding_mask=None, segment_ids=None, deterministic=True):
        drop = lambda y: self.dropout(y, deterministic=deterministic)
        rules = dict(padding_mask=padding_mask, segment_ids=segment_ids, deterministic=deterministic)
        before, attend, convolve, after, last = self.norms
        old_attention, old_convolution = (None, None) if state is None else (state.attention, state.convolution)
        x = x + 0.5 * drop(self.feed_forward_1(before(x), deterministic=deterministic))
        y, attention = self.attention(attend(x), old_attention, **rules)
        x = x + drop(y)
        y, convolution = self.convolution(convolve(x), old_convolution, **rules)
        x = x + drop(y)
        x = x + 0.5 * drop(self.feed_forward_2(after(x), deterministic=deterministic))
        return neutralise(last(x), padding_mask), None if state is None else BlockState(attention, convolution)

    def make_attention(self, **options) -> ConformerAttention:
        """The attention with the settings of this block."""
        return ConformerAttention(
            self.d_model,
            self.n_heads,
            self.d_model // self.n_heads,
            position_encoding=self.position_encoding,
            chunk_size=self.chunk_size,
            left_chunks=self.left_chunks,
            dropout_rate=self.dropout_rate,
            dtype=self.dtype,
            **options,
        )

    def make_convolution(self, **options) -> ConformerConvolution:
        """The convolution module with the settings of this block."""
        return ConformerConvolution(
            self.d_model,
            self.kernel_size,
            causal=self.chunk_size > 0,
            activation=self.activation,
            use_bias=self.convolution_bias,
            momentum=self.norm_momentum,
            dtype=self.dtype,
            **options,
        )

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32) -> BlockState:
        """State before the first frame."""
        parts = (self.make_attention(parent=None), self.make_convolution(parent=None))
        return BlockState(*(part.initial_state(batch_size, dtype, max_length=0) for part in parts))


class ConformerEncoder(nn.Module):
    """Frames of sound to vectors, one for four frames: subsampling and a stack of blocks, scanned over.

    Collection `batch_stats` holds the running statistics of the batch norms; training writes it.

    Attributes:
      d_model: width D.
      n_layers: blocks.
      n_heads: attention heads, each of width D / N.
      kernel_size: taps of the depthwise convolutions.
      d_ff: width of the feed-forwards' hidden layer; 0: 4 D.
      activation: of feed-forwards and convolution modules; "silu" is the paper's swish.
      position_encoding: see `ConformerAttention`.
      chunk_size: frames, after subsampling, of a chunk; more than 0 makes the encoder stream: convolutions see the past
        only, and attention the chunk and `left_chunks` before it.
      dropout_rate: on every branch, in the feed-forwards, on attention probabilities and after subsampling.
      convolution_bias: of the linear layers of the convolution modules.
      norm_momentum: of the batch norms' running statistics.
      norm_epsilon: of the layer norms.
      subsample: put the two strided convolutions in front; else frames are of width D.
      final_norm: one more layer norm behind the last block, as Wav2Vec2-Conformer has it.
      remat: compute blocks again in the backward pass instead of keeping what is inside them.
      dtype: dtype of the computation; parameters and statistics are float32.

    Raises ValueError at construction where a size makes no sense.

    Source: Gulati et al. 2020 (2005.08100), section 2.
    """

    d_model: int
    n_layers: int
    n_heads: int
    kernel_size: int = 32
    d_ff: int = 0
    activation: str = "silu"
    position_encoding: str = "relative"
    chunk_size: int = 0
    left_chunks: int = 4
    dropout_rate: float = 0.0
    convolution_bias: bool = True
    norm_momentum: float = 0.99
    norm_epsilon: float = 1e-5
    subsample: bool = True
    final_norm: bool = False
    remat: bool = False
    dtype: Any = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        at_least_one(d_model=self.d_model, n_layers=self.n_layers, n_heads=self.n_heads, kernel_size=self.kernel_size)
        probability(dropout_rate=self.dropout_rate)
        if self.d_model % self.n_heads:
            raise ValueError(f"n_heads={self.n_heads}; a divisor of d_model={self.d_model} is allowed")
        if self.chunk_size < 0:
            raise ValueError(f"chunk_size={self.chunk_size}; 0 (no chunks) or more frames is allowed")

    def block(self, **options) -> ConformerBlock:
        """One block with the settings of this encoder."""
        names = [name for name in ConformerBlock.__dataclass_fields__ if name not in ("parent", "name")]
        return ConformerBlock(**{name: getattr(self, name) for name in names}, **options)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T F"],
        state: EncoderState | None = None,
        *,
        padding_mask: Bool[Array, "B T"] | None = None,
        segment_ids: Any = None,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"] | None, EncoderState | None]:
        """Encodes utterances, or the next piece of streams.

        Args:
          x: features of frames.
          state: what earlier pieces left behind, or None for whole utterances.
          padding_mask: True at real frames.
          segment_ids: utterances packed into one row, of frames as they enter the blocks; only without subsampling,
            whose convolutions would mix them.
          deterministic: no dropout, and running statistics.

        Returns:
          Vectors, which of them are real (None: all), and the state after this piece (None where none came in).

        Raises:
          ValueError: a piece of a stream that is no whole number of chunks, or segments with subsampling.
        """
        if segment_ids is not None and self.subsample:
            raise ValueError("segment_ids with subsample=True: strided convolutions would mix neighbouring segments")
        x, after = neutralise(x, padding_mask), None
        if self.subsample:
            x, padding_mask, after = self.subsampling()(
                x,
                None if state is None else state.subsampling,
                padding_mask=padding_mask,
                deterministic=deterministic,
            )
        body = nn.remat(Step, static_argnums=(5,), prevent_cse=False) if self.remat else Step
        blocks = nn.scan(
            body,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=self.n_layers,
        )(self.block(parent=None), name="blocks")
        x, new = blocks(x, None if state is None else state.blocks, padding_mask, segment_ids, deterministic)
        if self.final_norm:
            x = neutralise(nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="norm")(x), padding_mask)
        return x, padding_mask, None if state is None else EncoderState(after, new)

    def subsampling(self, **options) -> ConvolutionalSubsampling:
        """The strided convolutions with the settings of this encoder."""
        causal = self.chunk_size > 0
        options = dict(name="subsampling") | options
        return ConvolutionalSubsampling(self.d_model, causal, self.dropout_rate, self.dtype, **options)

    @property
    def piece(self) -> int:
        """Frames of which pieces of a stream are multiples."""
        return self.chunk_size * (FACTOR if self.subsample else 1)

    def initial_state(self, batch_size: int, n_features: int, dtype: Any = jnp.float32) -> EncoderState:
        """State before the first frame of `batch_size` streams of frames of `n_features` numbers; its size does not
        depend on the length of the stream.

        Raises:
          ValueError: the encoder sees the future (chunk_size=0).
        """
        if not self.chunk_size:
            raise ValueError("chunk_size=0 cannot stream: outputs need frames that are still to come")
        one = self.block(parent=None).initial_state(batch_size, dtype)
        blocks = jax.tree.map(lambda leaf: jnp.stack([leaf] * self.n_layers), one)
        subsampling = self.subsampling(parent=None).initial_state(batch_size, n_features, dtype)
        return EncoderState(subsampling if self.subsample else None, blocks)


class Step(nn.Module):
    """A block as the body of a scan."""

    block: ConformerBlock

    def __call__(self, x, state, padding_mask, segment_ids, deterministic):
        return self.block(x, state, padding_mask, segment_ids, deterministic)
