"""Projections into and out of attention heads, shared by every attention family."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp


def to_heads(n_heads: int, head_dim: int, *, dtype: Any = jnp.float32) -> nn.Module:
    """`[B, T, D] -> [B, T, N, H]`: kernel `[D, N, H]`, Glorot uniform over `D x NH`, no bias (trax, Reformer)."""
    return nn.DenseGeneral(
        (n_heads, head_dim), use_bias=False, dtype=dtype, kernel_init=nn.initializers.glorot_uniform()
    )


def from_heads(d_model: int, *, dtype: Any = jnp.float32) -> nn.Module:
    """`[B, T, N, H] -> [B, T, D]`: kernel `[N, H, D]`, each head projected and all summed."""
    return nn.DenseGeneral(
        d_model,
        axis=(-2, -1),
        use_bias=False,
        dtype=dtype,
        kernel_init=nn.initializers.glorot_uniform(),
    )
