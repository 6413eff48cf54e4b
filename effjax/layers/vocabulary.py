"""Tokens to vectors and back: the embedding of a vocabulary and the scores of the next token."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from effjax.layers.dense import Dense, Embed
from effjax.layers.feed_forward import ACTIVATIONS
from effjax.layers.mixer import at_least_one
from effjax.ops.cross_entropy import chunked_cross_entropy
from effjax.ops.dense import whole_kernel


class HeadTransform(nn.Module):
    """`norm(act(W x + b))` before the scores of tokens, in BERT's masked language models.

    Attributes:
      activation: a name of `effjax.layers.feed_forward.ACTIVATIONS`.
      epsilon: of the norm.
      dtype: dtype of the computation.

    Source: Devlin et al. 2019 (1810.04805), its public code.
    """

    activation: str
    epsilon: float = 1e-12
    dtype: Any = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"head transform={self.activation!r}; one of {', '.join(ACTIVATIONS)} is allowed")

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        init = nn.initializers.glorot_uniform()
        x = ACTIVATIONS[self.activation](nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=init, name="dense")(x))
        return nn.LayerNorm(self.epsilon, dtype=self.dtype, name="norm")(x)


class Vocabulary(nn.Module):
    """`x = scale * E[token]`, and `logits = f(y) W + b`, where `W = E^T` if tied.

    Attributes:
      vocab_size: number of token ids V.
      d_model: width D of the embeddings.
      tied: read out with the transposed embeddings; the vectors read out then have width D.
      scale: factor of the embeddings, `sqrt(D)` in Transformer-XL.
      loss_chunk_size: positions whose logits exist at once in `nats`; 0: the whole length.
      transform: activation of f, a `HeadTransform`; "": f(y) = y.
      epsilon: of the norm in f.
      dtype: dtype of the computation; logits and losses are float32 at least.

    Raises ValueError at construction where a size makes no sense.

    Source: tied weights: Press & Wolf 2017 (1608.05859).
    """

    vocab_size: int
    d_model: int
    tied: bool = False
    scale: float = 1.0
    loss_chunk_size: int = 0
    transform: str = ""
    epsilon: float = 1e-12
    dtype: Any = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        if self.transform:
            HeadTransform(self.transform)
        at_least_one(vocab_size=self.vocab_size, d_model=self.d_model)
        if self.loss_chunk_size < 0:
            raise ValueError(f"loss_chunk_size={self.loss_chunk_size}; 0 (no slices) or more tokens is allowed")

    def setup(self):
        self.embedding = Embed(self.vocab_size, self.d_model, dtype=self.dtype)
        if self.transform:
            self.head_transform = HeadTransform(self.transform, self.epsilon, dtype=self.dtype)
        if self.tied:
            self.bias = self.param("bias", nn.initializers.zeros, (self.vocab_size,))
        else:
            self.head = Dense(self.vocab_size, dtype=self.dtype, kernel_init=nn.initializers.glorot_uniform())

    def embed(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Vectors of tokens."""
        x = self.embedding(tokens)
        return x if self.scale == 1.0 else x * jnp.asarray(self.scale, x.dtype)

    def logits(self, hidden: Float[Array, "B T E"]) -> Float[Array, "B T V"]:
        """Scores of every token: products of the compute dtype, accumulated in float32 at least."""
        hidden, kernel, bias = self._read_out(hidden)
        wide = jnp.promote_types(hidden.dtype, jnp.float32)
        return jnp.dot(hidden, kernel.astype(hidden.dtype), preferred_element_type=wide) + bias

    def nats(self, hidden: Float[Array, "B T E"], targets: Int[Array, "B T"]) -> Float[Array, "B T"]:
        """`-log p(target)`, float32 at least, `loss_chunk_size` positions' logits at a time."""
        hidden, kernel, bias = self._read_out(hidden)
        return chunked_cross_entropy(
            hidden, kernel, targets, bias=bias, chunk_size=self.loss_chunk_size or hidden.shape[1]
        )

    def margin(self, hidden: Float[Array, "B T E"], targets: Int[Array, "B T"]) -> Float[Array, "B T"]:
        """By how much the score of the target exceeds the mean of all scores, float32 at least.

            l_target - mean_v l_v

        A cross-entropy whose targets are smoothed, `(1 - e) one_hot + e / V`, is `nats + e * margin`, for which no
        logits are needed beyond those of `nats`.

        Source: Szegedy et al. 2015 (1512.00567), section 7.
        """
        hidden, kernel, bias = self._read_out(hidden)
        wide = jnp.promote_types(hidden.dtype, jnp.float32)
        above = jnp.take(kernel.T, targets, axis=0) - jnp.mean(kernel, axis=1)
        return jnp.einsum("bte,bte->bt", hidden.astype(wide), above) + bias[targets] - jnp.mean(bias)

    def _read_out(self, hidden):
        """The vectors to read out, the matrix `[E, V]` and the bias of the scores."""
        if self.transform:
            hidden = self.head_transform(hidden)
        if self.tied:
            if hidden.shape[-1] != self.d_model:
                raise ValueError(
                    f"tied=True with vectors of width {hidden.shape[-1]} (two streams of a reversible stack) and "
                    f"embeddings of width {self.d_model}: they must agree"
                )
            return hidden, whole_kernel(self.embedding.embedding).T, self.bias
        if self.is_initializing():
            self.head(hidden)
        head = self.head.variables["params"]
        return hidden, whole_kernel(head["kernel"]), head["bias"]
