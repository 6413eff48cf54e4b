"""A decoder language model assembled from any mix of token mixers."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from effjax.layers.mixer import neutralise, token_positions
from effjax.models.stack import Stack
from effjax.ops.cross_entropy import chunked_cross_entropy


@flax.struct.dataclass
class DecoderState:
    """A stream of tokens so far: how many, and what each block keeps of them."""

    index: jax.Array
    blocks: Any


class Decoder(nn.Module):
    """`logits = head(norm(stack(dropout(embed(tokens) + positions))))`.

    Attributes:
      vocab_size: number of token ids.
      d_model: width D.
      stack: the blocks.
      make_positions: constructor of the positions that are added to embeddings, called with `dtype`; None for none.
      dropout_rate: on embeddings and on the output of the stack.
      loss_chunk_size: tokens per slice of the loss; 0: the whole length at once.
      dtype: dtype of the computation; parameters and residual streams are float32.
    """

    vocab_size: int
    d_model: int
    stack: Stack
    make_positions: Callable[..., nn.Module] | None = None
    dropout_rate: float = 0.0
    loss_chunk_size: int = 0
    dtype: Any = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        if self.loss_chunk_size < 0:
            raise ValueError(f"loss_chunk_size={self.loss_chunk_size}; 0 (no slices) or more tokens is allowed")

    def setup(self):
        self.embedding = nn.Embed(self.vocab_size, self.d_model, dtype=self.dtype)
        self.positions = self.make_positions(dtype=self.dtype) if self.make_positions else None
        self.embedding_dropout = nn.Dropout(self.dropout_rate, broadcast_dims=(1,))
        self.norm = nn.LayerNorm(dtype=self.dtype)
        self.output_dropout = nn.Dropout(self.dropout_rate, broadcast_dims=(1,))
        self.head = nn.Dense(self.vocab_size, dtype=self.dtype, kernel_init=nn.initializers.glorot_uniform())

    def __call__(
        self, tokens: Int[Array, "B T"], state: DecoderState | None = None, **sequence
    ) -> tuple[Float[Array, "B T V"], DecoderState | None]:
        """Scores of the next token at every position, float32, and the state after this piece (None without one).

        Args:
          tokens: ids below `vocab_size`.
          state: what `initial_state` or an earlier piece of the same sequences gave.
          **sequence: `positions`, `padding_mask`, `segment_ids`, `deterministic`, as in `effjax.layers.Mixer`.
        """
        hidden, state = self.hidden(tokens, state, **sequence)
        return self.logits(hidden), state

    def logits(self, hidden: Float[Array, "B T E"]) -> Float[Array, "B T V"]:
        """The head: products of the compute dtype, accumulated in float32 at least."""
        if self.is_initializing():
            self.head(hidden)
        head, wide = self.head.variables["params"], jnp.promote_types(hidden.dtype, jnp.float32)
        return jnp.dot(hidden, head["kernel"].astype(hidden.dtype), preferred_element_type=wide) + head["bias"]

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        state: DecoderState | None = None,
        *,
        positions: Int[Array, "B T"] | None = None,
        padding_mask: Bool[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "B T E"], DecoderState | None]:
        """The normalised output of the stack, before the head; padded positions are 0."""
        positions = token_positions(tokens, positions, state)
        x = self.embedding(tokens)
        if self.positions is not None:
            x = x + self.positions(positions)
        x = neutralise(self.embedding_dropout(x, deterministic=deterministic), padding_mask)
        y, blocks = self.stack(
            x,
            None if state is None else state.blocks,
            positions=positions,
            padding_mask=padding_mask,
            segment_ids=segment_ids,
            deterministic=deterministic,
        )
        y = neutralise(self.output_dropout(self.norm(y), deterministic=deterministic), padding_mask)
        return y, None if state is None else DecoderState(state.index + tokens.shape[1], blocks)

    def nats(
        self, tokens: Int[Array, "B T"], targets: Int[Array, "B T"], state: DecoderState | None = None, **sequence
    ) -> tuple[Float[Array, "B T"], DecoderState | None]:
        """`-log p(target)` at every position, float32, `loss_chunk_size` positions' logits at a time; and the state."""
        hidden, state = self.hidden(tokens, state, **sequence)
        head = self.head.variables["params"]
        nats = chunked_cross_entropy(
            hidden, head["kernel"], targets, bias=head["bias"], chunk_size=self.loss_chunk_size or tokens.shape[1]
        )
        return nats, state

    @property
    def max_length(self) -> int | None:
        """Greatest length that the positions reach; None where there is no bound."""
        return getattr(self.make_positions(parent=None), "max_length", None) if self.make_positions else None

    @property
    def streams_forever(self) -> bool:
        """Whether the state has a bounded size, however long the stream."""
        return all(make(parent=None).bounded_state for make in self.stack.period.make_mixers)

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> DecoderState:
        """State before the first token of `batch_size` streams of at most `max_length` tokens each."""
        blocks = self.stack.initial_state(batch_size, dtype, max_length=max_length)
        return DecoderState(jnp.zeros((), jnp.int32), blocks)
