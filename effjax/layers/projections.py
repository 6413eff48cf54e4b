"""Projections into and out of attention heads, shared by every attention family."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from effjax.layers.mixer import Mixer, token_positions
from effjax.ops.positions import rotary


def to_heads(
    n_heads: int,
    head_dim: int,
    *,
    use_bias: bool = False,
    kernel_init: Callable[..., Any] | None = None,
    dtype: Any = jnp.float32,
) -> nn.Module:
    """`[B, T, D] -> [B, T, N, H]`: kernel `[D, N, H]`, Glorot uniform over `D x NH`, no bias (trax, Reformer)."""
    kernel_init = kernel_init or nn.initializers.glorot_uniform()
    return nn.DenseGeneral((n_heads, head_dim), use_bias=use_bias, dtype=dtype, kernel_init=kernel_init)


def from_heads(d_model: int, *, use_bias: bool = False, dtype: Any = jnp.float32) -> nn.Module:
    """`[B, T, N, H] -> [B, T, D]`: kernel `[N, H, D]`, each head projected and all summed."""
    return nn.DenseGeneral(
        d_model,
        axis=(-2, -1),
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=nn.initializers.glorot_uniform(),
    )


class SeparateHeads(Mixer):
    """A mixer whose queries, keys and values have a projection each.

    Attributes:
      causal: a position sees itself and the past only.
      rotary: encode distances by rotating queries and keys (`effjax.ops.positions.rotary`).
      implementation: the family's op says which there are; None takes the platform's best.
    """

    causal: bool = True
    rotary: bool = False
    implementation: str | None = None

    def setup(self):
        self.query = to_heads(self.n_heads, self.head_dim, dtype=self.dtype)
        self.key = to_heads(self.n_heads, self.head_dim, dtype=self.dtype)
        self.value = to_heads(self.n_heads, self.head_dim, dtype=self.dtype)
        self.out = from_heads(self.d_model, dtype=self.dtype)

    def project(self, x, positions, state):
        """Queries, keys and values `[B, T, N, H]` of tokens that follow what `state` has seen."""
        return *self.rotate(self.query(x), self.key(x), positions, state), self.value(x)

    def rotate(self, q, k, positions, state):
        """Queries and keys, turned by their positions where `rotary` says so."""
        if not self.rotary:
            return q, k
        positions = token_positions(q, positions, state)
        return rotary(q, positions), rotary(k, positions)
