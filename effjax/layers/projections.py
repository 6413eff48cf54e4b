"""Projections into and out of attention heads, shared by every attention family."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from effjax.layers.dense import Compressible, DenseGeneral
from effjax.layers.mixer import Mixer, token_positions
from effjax.ops.convolution import causal_conv
from effjax.ops.dense import whole_kernel
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
    return DenseGeneral((n_heads, head_dim), use_bias=use_bias, dtype=dtype, kernel_init=kernel_init)


def from_heads(d_model: int, *, use_bias: bool = False, dtype: Any = jnp.float32) -> nn.Module:
    """`[B, T, N, H] -> [B, T, D]`: kernel `[N, H, D]`, each head projected and all summed."""
    return DenseGeneral(
        d_model,
        axis=(-2, -1),
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=nn.initializers.glorot_uniform(),
    )


class ConvolvedHeads(Compressible, nn.Module):
    """`[B, T, D] -> [B, T, N, H]`: a causal convolution over time, kernel `[K, D, N, H]`, with a bias.

    Attributes:
      n_heads, head_dim: N and H.
      kernel_size: taps K, the last of which is the present.
      dtype: dtype of the computation.

    Source: Li et al. 2019 (1907.00235), section 4.1.
    """

    n_heads: int
    head_dim: int
    kernel_size: int
    dtype: Any = jnp.float32
    contracted = (0, 1)

    @nn.compact
    def __call__(self, x, tail=None, *, padding_mask=None, segment_ids=None):
        """The heads, and what the next piece of a stream needs of this one (`effjax.ops.convolution.causal_conv`)."""
        heads = (self.n_heads, self.head_dim)
        init = nn.initializers.glorot_uniform(in_axis=(0, 1), out_axis=(2, 3))
        kernel = whole_kernel(self.param("kernel", init, (self.kernel_size, x.shape[-1], *heads)))
        bias = self.param("bias", nn.initializers.zeros, heads)
        y, tail = causal_conv(
            x.astype(self.dtype),
            kernel.reshape(*kernel.shape[:2], -1).astype(self.dtype),
            bias=bias.reshape(-1).astype(self.dtype),
            tail=tail,
            padding_mask=padding_mask,
            segment_ids=segment_ids,
        )
        return y.reshape(*y.shape[:2], *heads), tail


class SeparateHeads(Mixer):
    """A mixer whose queries, keys and values have a projection each.

    Attributes:
      causal: a position sees itself and the past only.
      rotary: encode distances by rotating queries and keys (`effjax.ops.positions.rotary`).
      implementation: the family's op says which there are; None takes the platform's best.
      n_kv_heads: heads K of keys and values, a divisor of n_heads; query head n reads head n // (N / K). 0: N. States
        that hold keys and values hold K heads of them (Ainslie et al. 2023, 2305.13245).
      use_bias: biases in all four projections.
    """

    causal: bool = True
    rotary: bool = False
    implementation: str | None = None
    n_kv_heads: int = 0
    use_bias: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.n_kv_heads < 0 or self.n_heads % self.kv_heads:
            raise ValueError(
                f"n_kv_heads={self.n_kv_heads}; a divisor of n_heads={self.n_heads}, or 0 for as many, is allowed"
            )

    @property
    def kv_heads(self) -> int:
        """Heads K of keys and values."""
        return self.n_kv_heads or self.n_heads

    @property
    def key_width(self) -> int:
        """Width of a head of queries and keys."""
        return self.head_dim

    def setup(self):
        options = dict(use_bias=self.use_bias, dtype=self.dtype)
        self.query = to_heads(self.n_heads, self.key_width, **options)
        self.key = to_heads(self.kv_heads, self.key_width, **options)
        self.value = to_heads(self.kv_heads, self.head_dim, **options)
        self.out = from_heads(self.d_model, **options)

    def for_each_query_head(self, *arrays):
        """Keys and values `[B, S, K, H]` as `[B, S, N, H]`, for an op in which every head has its own."""
        groups = self.n_heads // self.kv_heads
        return arrays if groups == 1 else tuple(jnp.repeat(array, groups, axis=2) for array in arrays)

    def project(self, x, positions, state):
        """Queries `[B, T, N, H]`, keys and values `[B, T, K, H]` of tokens that follow what `state` has seen."""
        return *self.rotate(self.query(x), self.key(x), positions, state), self.value(x)

    def rotate(self, q, k, positions, state):
        """Queries and keys, turned by their positions where `rotary` says so."""
        if not self.rotary:
            return q, k
        positions = token_positions(q, positions, state)
        return rotary(q, positions), rotary(k, positions)
