"""An encoder that says what a document is, or, with two towers, what two documents are to each other."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from effjax.errors import UserError
from effjax.layers.mixer import at_least_one
from effjax.models.build import make_encoder
from effjax.models.encoder import Encoder

POOLINGS = ("cls", "mean")
INTERACTIONS = ("concat", "nli")


class Classifier(nn.Module):
    """`logits = W2 relu(W1 pool(encoder(x)))`; of two documents, read by one encoder, a hidden layer more:
    `logits = W3 relu(W2 relu(W1 meet(pool(encoder(x1)), pool(encoder(x2)))))`.

    - pooling "cls": a token of its own, the last id of the encoder's vocabulary, stands before the document, and its
      output is the document's vector. It is the mask of a masked language model: what stands there?
    - pooling "mean": the mean over the document's tokens.
    - interaction "concat": `[e1; e2]`; "nli": `[e1; e2; e1 e2; e1 - e2]`.

    Attributes:
      encoder: reads the tokens.
      n_classes: number of logits.
      pooling, interaction: as above.
      towers: documents of an example, 1 or 2.
      d_hidden: width of the hidden layer, of the second one half as wide.

    Raises ValueError at construction where a setting makes no sense.

    Source: Tay et al. 2021 (2011.04006), section 2.2, and the heads of its public code.
    """

    encoder: Encoder
    n_classes: int
    pooling: str = "cls"
    towers: int = 1
    interaction: str = "concat"
    d_hidden: int = 128

    def __post_init__(self):
        super().__post_init__()
        at_least_one(n_classes=self.n_classes, d_hidden=self.d_hidden)
        for name, allowed in (("pooling", POOLINGS), ("interaction", INTERACTIONS), ("towers", (1, 2))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}; one of {', '.join(map(str, allowed))} is allowed")

    def setup(self):
        widths = [self.d_hidden, self.d_hidden // 2][: self.towers]
        self.hidden = [nn.Dense(max(width, 1)) for width in widths]
        self.out = nn.Dense(self.n_classes)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        padding_mask: Bool[Array, "B T"],
        others: Int[Array, "B T"] | None = None,
        others_padding_mask: Bool[Array, "B T"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B C"]:
        """Scores of the classes, float32.

        Args:
          tokens: ids of the documents; what stands at padded positions does not matter.
          padding_mask: True at tokens that are there, at least one of each document.
          others, others_padding_mask: the second documents, of two towers.
          deterministic: no dropout.
        """
        if self.towers == 2:  # both in one batch
            tokens = jnp.concatenate([tokens, others])
            padding_mask = jnp.concatenate([padding_mask, others_padding_mask])
        x = self.vectors(tokens, padding_mask, deterministic=deterministic)
        if self.towers == 2:
            a, b = jnp.split(x, 2)
            x = jnp.concatenate([a, b] if self.interaction == "concat" else [a, b, a * b, a - b], axis=-1)
        for layer in self.hidden:
            x = nn.relu(layer(x))
        return self.out(x)

    def vectors(self, tokens, padding_mask, *, deterministic: bool = True) -> Float[Array, "B E"]:
        """A vector for every document, float32."""
        if self.pooling == "cls":
            front = jnp.full_like(tokens[:, :1], self.encoder.vocab_size - 1)
            tokens = jnp.concatenate([front, tokens], axis=1)
            padding_mask = jnp.concatenate([jnp.ones_like(padding_mask[:, :1]), padding_mask], axis=1)
        tokens = jnp.where(padding_mask, tokens, 0)
        y, _ = self.encoder.hidden(tokens, padding_mask=padding_mask, deterministic=deterministic)
        y = y.astype(jnp.float32)
        if self.pooling == "cls":
            return y[:, 0]
        return y.sum(axis=1) / jnp.maximum(padding_mask.sum(axis=1), 1)[:, None]  # padded positions are 0

    def after_update(self, params, *, step, key):
        """The parameters after every mixer's `after_update`, which follows each update of the optimizer."""
        return params | {"encoder": self.encoder.after_update(params["encoder"], step=step, key=key)}

    def penalty(self, params) -> Float[Array, ""]:
        """What the mixers add to the training loss, in nats."""
        return self.encoder.penalty(params["encoder"])

    @property
    def max_length(self) -> int | None:
        """The longest document; None where there is no bound."""
        longest = self.encoder.max_length
        return longest if longest is None or self.pooling == "mean" else longest - 1


def make_classifier(config: ConfigDict, *, vocab_size: int, dtype=jnp.float32, **attributes) -> Classifier:
    """The classifier whose encoder a `model` section describes.

    Args:
      config: see `effjax.models.build.encoder_config`.
      vocab_size: ids of documents; the encoder has one more.
      dtype: of the encoder's computation.
      **attributes: those of `Classifier`, but the encoder.

    Raises:
      UserError: a name that does not exist or a size that does not fit.
    """
    encoder = make_encoder(config, vocab_size=vocab_size + 1, dtype=dtype)
    try:
        return Classifier(encoder, **attributes)
    except ValueError as error:
        raise UserError(f"options: {error}") from error
