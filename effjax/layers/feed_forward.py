"""The position-wise feed-forward network, optionally in slices of the length."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from effjax.layers.dense import Dense
from effjax.layers.mixer import at_least_one, probability
from effjax.ops.chunking import map_chunks

ACTIVATIONS = {
    "relu": nn.relu,
    "gelu": nn.gelu,
    "gelu_exact": functools.partial(nn.gelu, approximate=False),
    "silu": nn.silu,
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),  # Hendrycks & Gimpel 2016 (1606.08415), section 2
}


class FeedForward(nn.Module):
    """`y = W2 dropout(act(W1 x + b1)) + b2`, `[B, T, D] -> [B, T, D]`.

    The dropout mask may be shared over time (as in trax), so that slicing the length changes nothing.

    Attributes:
      d_model: width D.
      d_ff: width of the hidden layer.
      activation: a name of `ACTIVATIONS`; "gelu" is its tanh form.
      dropout_rate: on the hidden layer.
      dropout_over_time: one mask for all positions.
      chunk_size: tokens a slice; the hidden layer of one slice at a time is in memory. 0: the whole length at once.
      dtype: dtype of the computation.

    Source: Vaswani et al. 2017 (1706.03762), section 3.3; slices: Kitaev et al. 2020 (2001.04451), section 3.
    """

    d_model: int
    d_ff: int
    activation: str = "relu"
    dropout_rate: float = 0.0
    dropout_over_time: bool = True
    chunk_size: int = 0
    dtype: Any = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        at_least_one(d_model=self.d_model, d_ff=self.d_ff)
        probability(dropout_rate=self.dropout_rate)
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation={self.activation!r}; one of {', '.join(ACTIVATIONS)} is allowed")
        if self.chunk_size < 0:
            raise ValueError(f"chunk_size={self.chunk_size}; 0 (no slices) or more tokens is allowed")
        if self.chunk_size and self.dropout_rate and not self.dropout_over_time:
            raise ValueError(
                f"chunk_size={self.chunk_size} with dropout_over_time=False: slices share one dropout mask"
            )

    def setup(self):
        options = dict(dtype=self.dtype, kernel_init=nn.initializers.glorot_uniform())
        self.inner = Dense(self.d_ff, **options)
        self.outer = Dense(self.d_model, **options)
        self.dropout = nn.Dropout(self.dropout_rate)

    def __call__(self, x: Float[Array, "B T D"], *, deterministic: bool = True) -> Float[Array, "B T D"]:
        length = 1 if self.dropout_over_time else x.shape[1]
        keep = self.dropout(jnp.ones((x.shape[0], length, self.d_ff), self.dtype), deterministic=deterministic)
        if not self.chunk_size or self.is_initializing():
            return nn.remat(_from_hidden, prevent_cse=False)(self, self.inner(x), keep)
        # Flax modules cannot be called under a JAX loop: the loop's body gets them unbound, with their variables.
        (inner, inner_variables), (outer, outer_variables) = self.inner.unbind(), self.outer.unbind()

        def feed(piece):
            hidden = ACTIVATIONS[self.activation](inner.apply(inner_variables, piece)) * keep
            return outer.apply(outer_variables, hidden)

        return map_chunks(feed, x, chunk_size=self.chunk_size)


def _from_hidden(self, hidden, keep):
    """What follows the hidden layer, of which the backward pass keeps the activation's input and nothing else: JAX
    would keep every step of a gelu, six hidden layers instead of one, and what the outer product takes in besides."""
    return self.outer(ACTIVATIONS[self.activation](hidden) * keep)
