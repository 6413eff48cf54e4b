"""A decoder language model assembled from any mix of token mixers."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from effjax.layers.cross import SourceRows
from effjax.layers.mixer import neutralise, token_positions
from effjax.layers.vocabulary import Vocabulary
from effjax.models.stack import Stack


@flax.struct.dataclass
class DecoderState:
    """A stream of tokens so far: how many, and what each block keeps of them."""

    index: jax.Array
    blocks: Any


class Shared(nn.Module):
    """Parameters that the blocks of a model share.

    Attributes:
      shapes: `{name: (shape, initializer)}`, see `effjax.layers.Mixer.shared_params`.
    """

    shapes: Any

    @nn.compact
    def __call__(self) -> dict[str, jax.Array]:
        return {name: self.param(name, init, shape) for name, (shape, init) in self.shapes.items()}


class Decoder(nn.Module):
    """`logits = read_out(dropout(norm(stack(dropout(embed(tokens) + positions)))))`; a post-norm stack ends in one.

    In BERT's layout embeddings are `norm(embed(tokens) + positions + types)`.

    Attributes:
      make_vocabulary: constructor of the embedding and the read-out, called with `dtype` (a partial of
        `effjax.layers.Vocabulary`); None for one side of a larger model, which is called by `transform`.
      stack: the blocks.
      make_positions: constructor of the positions that are added to embeddings, called with `dtype`; None for none.
      n_token_types: kinds of tokens, each with a vector that is added to embeddings; 0: none.
      embedding_norm: normalise the sum of embeddings.
      dropout_rate: on embeddings and, with `drop_output`, on the output of the stack.
      dropout_over_time: one dropout mask for all positions.
      dtype: dtype of the computation; parameters and residual streams are float32.
    """

    make_vocabulary: Callable[..., Vocabulary] | None
    stack: Stack
    make_positions: Callable[..., nn.Module] | None = None
    n_token_types: int = 0
    embedding_norm: bool = False
    dropout_rate: float = 0.0
    dropout_over_time: bool = True
    dtype: Any = jnp.float32
    drop_output: bool = True

    def setup(self):
        self.vocabulary = self.make_vocabulary(dtype=self.dtype) if self.make_vocabulary else None
        self.positions = self.make_positions(dtype=self.dtype) if self.make_positions else None
        if self.n_token_types:
            width = self.stack.period.mixers()[0].d_model
            self.token_types = nn.Embed(self.n_token_types, width, dtype=self.dtype)
        if self.embedding_norm:
            self.input_norm = nn.LayerNorm(self.stack.period.epsilon, dtype=self.dtype)
        shared = (1,) if self.dropout_over_time else ()
        self.embedding_dropout = nn.Dropout(self.dropout_rate, broadcast_dims=shared)
        self.output_dropout = nn.Dropout(self.dropout_rate if self.drop_output else 0.0, broadcast_dims=shared)
        if self.stack.period.norm == "pre":
            self.norm = nn.LayerNorm(self.stack.period.epsilon, dtype=self.dtype)
        shapes = self.stack.shared_params()
        self.shared = Shared(shapes) if shapes else None

    def __call__(
        self, tokens: Int[Array, "B T"], state: DecoderState | None = None, **sequence
    ) -> tuple[Float[Array, "B T V"], DecoderState | None]:
        """Scores of the next token at every position, float32, and the state after this piece (None without one).

        Args:
          tokens: ids below the vocabulary's size.
          state: what `initial_state` or an earlier piece of the same sequences gave.
          **sequence: `positions`, `padding_mask`, `segment_ids`, `deterministic`, as in `effjax.layers.Mixer`;
            `token_types` and `global_mask` as in `transform`.
        """
        hidden, state = self.hidden(tokens, state, **sequence)
        return self.logits(hidden), state

    def hidden(
        self, tokens: Int[Array, "B T"], state: DecoderState | None = None, **sequence
    ) -> tuple[Float[Array, "B T E"], DecoderState | None]:
        """The normalised output of the stack, before the read-out; padded positions are 0."""
        return self.transform(self.vocabulary.embed(tokens), state, **sequence)

    def transform(
        self,
        x: Float[Array, "B T D"],
        state: DecoderState | None = None,
        *,
        positions: Int[Array, "B T"] | None = None,
        padding_mask: Bool[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        sources: list[SourceRows] | None = None,
        token_types: Int[Array, "B T"] | None = None,
        global_mask: Bool[Array, "B T"] | None = None,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "B T E"], DecoderState | None]:
        """As `hidden`, from the vectors of tokens.

        Args:
          x: the vectors.
          state: as in `__call__`.
          positions, padding_mask, segment_ids, deterministic: as in `effjax.layers.Mixer`.
          sources: what the stack's `read` gave, where it looks up any.
          token_types: kind of each token, where the model has `n_token_types`; None: 0 for all.
          global_mask: as in `effjax.layers.LongformerAttention`, which all mixers then have to be.
        """
        positions = token_positions(x, positions, state)
        if self.positions is not None:
            x = x + self.positions(positions)
        if token_types is not None and not self.n_token_types:
            raise ValueError("token_types for a model with n_token_types=0, which tells none apart; None is allowed")
        if self.n_token_types:
            x = x + self.token_types(jnp.zeros(x.shape[:2], jnp.int32) if token_types is None else token_types)
        if self.embedding_norm:
            x = self.input_norm(x)
        x = neutralise(self.embedding_dropout(x, deterministic=deterministic), padding_mask)
        y, blocks = self.stack(
            x,
            None if state is None else state.blocks,
            positions=positions,
            padding_mask=padding_mask,
            segment_ids=segment_ids,
            global_mask=global_mask,
            shared=None if self.shared is None else self.shared(),
            sources=sources,
            deterministic=deterministic,
        )
        y = self.norm(y) if self.stack.period.norm == "pre" else y.astype(self.dtype)
        y = neutralise(self.output_dropout(y, deterministic=deterministic), padding_mask)
        return y, None if state is None else DecoderState(state.index + x.shape[1], blocks)

    def read(self, source: Float[Array, "B S D"], **rules) -> list[SourceRows]:
        """What the blocks keep of a source; see `effjax.models.stack.Stack.read`."""
        return self.stack.read(source, **rules)

    def logits(self, hidden: Float[Array, "B T E"]) -> Float[Array, "B T V"]:
        """Scores of the next token, from what `hidden` gives."""
        return self.vocabulary.logits(hidden)

    def nats(
        self, tokens: Int[Array, "B T"], targets: Int[Array, "B T"], state: DecoderState | None = None, **sequence
    ) -> tuple[Float[Array, "B T"], DecoderState | None]:
        """`-log p(target)` at every position, float32; and the state."""
        hidden, state = self.hidden(tokens, state, **sequence)
        return self.vocabulary.nats(hidden, targets), state

    def after_update(self, params, *, step: Int[Array, ""], key: Key[Array, ""]):
        """The model's parameters after every mixer's `after_update`, which follows each update of the optimizer."""
        return params | {"stack": self.stack.after_update(params["stack"], step=step, key=key)}

    def penalty(self, params) -> Float[Array, ""]:
        """What the mixers add to the training loss, in nats per target."""
        return self.stack.penalty(params["stack"])

    def metrics(self, params) -> dict[str, Float[Array, ""]]:
        """What is worth logging of the mixers' parameters."""
        return self.stack.metrics(params["stack"])

    def adapt(self, params, *, frozen: bool = False) -> list[dict[str, Any]]:
        """Attributes that the mixer of each block should change to suit these parameters; for `adapted`."""
        return self.stack.adapt(params["stack"], frozen=frozen)

    def adapted(self, changes: list[dict[str, Any]]) -> "Decoder":
        """The model with these attributes of its mixers; parameters keep their names and shapes."""
        return self.clone(stack=self.stack.adapted(changes))

    def fits(self, params) -> Bool[Array, ""]:
        """Whether the mixers' static sizes suit these parameters."""
        return self.stack.fits(params["stack"])

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.make_vocabulary(parent=None).vocab_size

    @property
    def max_length(self) -> int | None:
        """Greatest length that the positions reach; None where there is no bound."""
        return getattr(self.make_positions(parent=None), "max_length", None) if self.make_positions else None

    @property
    def streams_forever(self) -> bool:
        """Whether the state has a bounded size, however long the stream."""
        return all(mixer.bounded_state for mixer in self.stack.period.mixers())

    @property
    def outlives_updates(self) -> bool:
        """Whether a state may be carried from one training step to the next."""
        return all(mixer.outlives_updates for mixer in self.stack.period.mixers())

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> DecoderState:
        """State before the first token of `batch_size` streams of at most `max_length` tokens each."""
        blocks = self.stack.initial_state(batch_size, dtype, max_length=max_length)
        return DecoderState(jnp.zeros((), jnp.int32), blocks)
