"""Absolute positions, added to token embeddings; any slice of them at any time."""

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from effjax.layers.mixer import at_least_one
from effjax.ops.positions import axial_positions, factorised_positions, sinusoidal_positions


class SinusoidalPositions(nn.Module):
    """Fixed sines and cosines of any length. Source: Vaswani et al. 2017 (1706.03762), section 3.5."""

    d_model: int
    dtype: Any = jnp.float32
    max_length: ClassVar[None] = None

    def __post_init__(self):
        super().__post_init__()
        if self.d_model < 2 or self.d_model % 2:
            raise ValueError(f"d_model={self.d_model}; sinusoidal positions need an even number of at least 2")

    def __call__(self, positions: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        return sinusoidal_positions(positions, self.d_model).astype(self.dtype)


class AxialPositions(nn.Module):
    """Learned positions on a grid: `position i n2 + j -> [E1_i ; E2_j]`, `n1 d1 + n2 d2` parameters for `n1 n2` places.

    Attributes:
      shape: n1, n2, … whose product is the greatest length.
      dims: d1, d2, … whose sum is D.
      init_scale: standard deviation of the initial tables (1 in trax).
      dtype: dtype of the result.

    Source: Kitaev et al. 2020 (2001.04451), appendix; `AxialPositionalEncoding` in trax.
    """

    shape: tuple[int, ...]
    dims: tuple[int, ...]
    init_scale: float = 1.0
    dtype: Any = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        if len(self.shape) != len(self.dims):
            raise ValueError(f"axial shape={self.shape} and dims={self.dims} must have as many axes as each other")

    def setup(self):
        self.tables = [
            self.param(f"axis_{i}", nn.initializers.normal(self.init_scale), (n, d))
            for i, (n, d) in enumerate(zip(self.shape, self.dims))
        ]

    @property
    def max_length(self) -> int:
        return math.prod(self.shape)

    def __call__(self, positions: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        return axial_positions(self.tables, positions).astype(self.dtype)


class LearnedPositions(nn.Module):
    """Learned positions, one vector each: `position i -> E_{i + offset}`.

    Attributes:
      d_model: width D.
      length: greatest length; the table has `offset` rows more.
      offset: first rows of the table that stand for no position, such as padding's in RoBERTa's layout (2 rows).
      init_scale: standard deviation of the initial table.
      dtype: dtype of the result.

    Source: Devlin et al. 2019 (1810.04805), section 3.
    """

    d_model: int
    length: int
    offset: int = 0
    init_scale: float = 0.02
    dtype: Any = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        at_least_one(d_model=self.d_model, length=self.length)
        if self.offset < 0:
            raise ValueError(f"offset={self.offset}; 0 or more rows is allowed")

    def setup(self):
        shape = (self.length + self.offset, self.d_model)
        self.table = self.param("table", nn.initializers.normal(self.init_scale), shape)

    @property
    def max_length(self) -> int:
        return self.length

    def __call__(self, positions: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        return jnp.take(self.table, positions + self.offset, axis=0).astype(self.dtype)


class FactorisedPositions(nn.Module):
    """Learned positions on a grid: `position i n2 + j -> E1_i + E2_j`, `(n1 + n2) D` parameters for `n1 n2` places.

    Attributes:
      d_model: width D.
      shape: n1, n2, … whose product is the greatest length; n2 is the stride of a Sparse Transformer.
      init_scale: standard deviation of the initial tables.
      dtype: dtype of the result.

    Source: Child et al. 2019 (1904.10509), section 5.3.
    """

    d_model: int
    shape: tuple[int, ...]
    init_scale: float = 1.0
    dtype: Any = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        at_least_one(d_model=self.d_model, **{f"factorised shape[{i}]": n for i, n in enumerate(self.shape)})

    def setup(self):
        self.tables = [
            self.param(f"axis_{i}", nn.initializers.normal(self.init_scale), (n, self.d_model))
            for i, n in enumerate(self.shape)
        ]

    @property
    def max_length(self) -> int:
        return math.prod(self.shape)

    def __call__(self, positions: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        return factorised_positions(self.tables, positions).astype(self.dtype)
