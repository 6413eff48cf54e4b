"""Adaptive input and adaptive softmax: a vocabulary in clusters, those of rare tokens seldom looked at."""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from effjax.layers.mixer import at_least_one
from effjax.ops.adaptive_softmax import Clusters, adaptive_log_probs, adaptive_nats


class AdaptiveVocabulary(nn.Module):
    """Ids in order of frequency, cut into clusters; cluster i has width `D_i = d_embed // div^i`.

        x = scale * E_i[w - first_i] P_i^T,    p(w) = p(cluster i) softmax(y Q_i E_i^T + b_i)_w

    The tables E_i are shared between input and output; Q_i = P_i for the tails, and for the head if `tie_head`. With
    `div=1` and `d_embed = d_model` there are no projections. The head's softmax is over its ids and the n tails.

    Attributes:
      vocab_size: number of token ids V.
      d_model: width D of the embeddings, and of the vectors that are read out.
      cutoffs: the first id of each tail.
      div: what the width of each cluster is divided by to give that of the next.
      d_embed: width of the head's table; 0: d_model.
      tie_head: the head's projection is shared too, as those of the tails are.
      scale: factor of the embeddings, `sqrt(D)` in Transformer-XL.
      loss_chunk_size: positions whose head logits exist at once in `nats`; 0: the whole length.
      dtype: dtype of the computation; log-probabilities and losses are float32 at least.

    Raises ValueError at construction where a size makes no sense.

    Source: Grave et al. 2017 (1609.04309); Baevski & Auli 2019 (1809.10853); Dai et al. 2019 (1901.02860), whose public
    code ties all projections but the head's.
    """

    vocab_size: int
    d_model: int
    cutoffs: tuple[int, ...] = (20_000, 40_000, 200_000)
    div: int = 1
    d_embed: int = 0
    tie_head: bool = False
    scale: float = 1.0
    loss_chunk_size: int = 0
    dtype: Any = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        at_least_one(vocab_size=self.vocab_size, d_model=self.d_model, div=self.div)
        ends = (0, *self.cutoffs, self.vocab_size)
        if len(ends) == 2 or any(low >= high for low, high in itertools.pairwise(ends)):
            raise ValueError(
                f"cutoffs={self.cutoffs}; one id or more, increasing, of 1 to {self.vocab_size - 1} is allowed"
            )
        for name in ("d_embed", "loss_chunk_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}; 0 or more is allowed")
        if self.widths[-1] < 1:
            raise ValueError(
                f"div={self.div} leaves nothing of a width of {self.widths[0]} after {len(self.cutoffs)} divisions"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Ids in each cluster."""
        ends = (0, *self.cutoffs, self.vocab_size)
        return tuple(high - low for low, high in itertools.pairwise(ends))

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each cluster's table."""
        return tuple((self.d_embed or self.d_model) // self.div**i for i in range(len(self.cutoffs) + 1))

    def setup(self):
        normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=-1, out_axis=-2)
        zeros, n_tails = nn.initializers.zeros, len(self.cutoffs)
        self.tables = [self.param(f"table_{i}", normal, shape) for i, shape in enumerate(zip(self.sizes, self.widths))]
        self.biases = [self.param(f"bias_{i}", zeros, (size,)) for i, size in enumerate(self.sizes)]
        self.tail_table = self.param("tail_table", normal, (n_tails, self.widths[0]))
        self.tail_bias = self.param("tail_bias", zeros, (n_tails,))
        if self.widths == (self.d_model,) * len(self.widths):
            self.projections = self.read_out_projections = [None] * len(self.widths)
            return
        glorot = nn.initializers.glorot_uniform()
        self.projections = [
            self.param(f"projection_{i}", glorot, (self.d_model, width)) for i, width in enumerate(self.widths)
        ]
        head = self.projections[0]
        if not self.tie_head:
            head = self.param("head_projection", glorot, (self.d_model, self.widths[0]))
        self.read_out_projections = [head, *self.projections[1:]]

    def embed(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Vectors of tokens."""
        x, first = 0, 0
        for size, table, projection in zip(self.sizes, self.tables, self.projections):
            own = tokens - first
            rows = jnp.take(table.astype(self.dtype), jnp.clip(own, 0, size - 1), axis=0)
            if projection is not None:
                rows = jnp.einsum("bte,de->btd", rows, projection.astype(self.dtype))
            x = jnp.where(((own >= 0) & (own < size))[..., None], rows, x)
            first += size
        return x if self.scale == 1.0 else x * jnp.asarray(self.scale, x.dtype)

    def logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Scores of every token: the logarithms of their probabilities, which are normalised already."""
        return adaptive_log_probs(hidden, self.clusters(hidden))

    def nats(self, hidden: Float[Array, "B T D"], targets: Int[Array, "B T"]) -> Float[Array, "B T"]:
        """`-log p(target)`, float32 at least; of each tail only the positions whose targets it holds are computed."""
        chunk_size = self.loss_chunk_size or hidden.shape[1]
        return adaptive_nats(hidden, targets, self.clusters(hidden), chunk_size=chunk_size)

    def clusters(self, hidden: jax.Array) -> Clusters:
        """The read-out."""
        if hidden.shape[-1] != self.d_model:
            raise ValueError(
                f"vectors of width {hidden.shape[-1]} (two streams of a reversible stack) and an adaptive vocabulary, "
                f"which reads out with its embeddings, of width {self.d_model}: they must agree"
            )
        return Clusters(self.tables, self.biases, self.read_out_projections, self.tail_table, self.tail_bias)
