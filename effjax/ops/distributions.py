"""Distributions of the next value of a series, as a network's numbers give them."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

LEAST_SCALE = 1e-4  # of a distribution: a series that stands still would have an infinite density


class Gaussian:
    """Normal with mean a and deviation softplus(b), for numbers (a, b). Source: Salinas et al. 2020, section 3.1."""

    n_numbers: ClassVar[int] = 2

    @staticmethod
    def nats(numbers: Float[Array, "*batch P"], value: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        """`-log p(value) = z^2 / 2 + log(scale) + log(2 pi) / 2`, `z = (value - loc) / scale`."""
        loc, scale = loc_and_scale(numbers)
        return 0.5 * jnp.square((value - loc) / scale) + jnp.log(scale) + 0.5 * jnp.log(2 * jnp.pi)

    @staticmethod
    def sample(key: Key[Array, ""], numbers: Float[Array, "*batch P"]) -> Float[Array, "*batch"]:
        """One draw of each."""
        loc, scale = loc_and_scale(numbers)
        return loc + scale * jax.random.normal(key, loc.shape, loc.dtype)


class StudentT:
    """Student's t, with location a, scale softplus(b) and 2 + softplus(c) degrees of freedom, for (a, b, c)."""

    n_numbers: ClassVar[int] = 3

    @staticmethod
    def nats(numbers: Float[Array, "*batch P"], value: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        """`-log p(value) = (v+1)/2 log(1 + z^2/v) + log(scale) + log(pi v)/2 + lgamma(v/2) - lgamma((v+1)/2)`."""
        (loc, scale), v = loc_and_scale(numbers), degrees_of_freedom(numbers)
        z = (value - loc) / scale
        constant = 0.5 * jnp.log(jnp.pi * v) + jax.lax.lgamma(v / 2) - jax.lax.lgamma((v + 1) / 2)
        return (v + 1) / 2 * jnp.log1p(jnp.square(z) / v) + jnp.log(scale) + constant

    @staticmethod
    def sample(key: Key[Array, ""], numbers: Float[Array, "*batch P"]) -> Float[Array, "*batch"]:
        """One draw of each."""
        loc, scale = loc_and_scale(numbers)
        return loc + scale * jax.random.t(key, degrees_of_freedom(numbers), loc.shape, loc.dtype)


DISTRIBUTIONS = {"gaussian": Gaussian, "student_t": StudentT}


def loc_and_scale(numbers: Float[Array, "*batch P"]) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """The first two numbers as a location and a scale."""
    return numbers[..., 0], jax.nn.softplus(numbers[..., 1]) + LEAST_SCALE


def degrees_of_freedom(numbers: Float[Array, "*batch P"]) -> Float[Array, "*batch"]:
    """The third number: above 2, so that there is a variance."""
    return 2.0 + jax.nn.softplus(numbers[..., 2])
