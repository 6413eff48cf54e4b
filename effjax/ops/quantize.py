"""Symmetric integers: rounding to them and back, rounding with a straight-through gradient, four-bit codes in pairs."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int8, Key, UInt8


def largest_code(bits: int) -> int:
    """`2^(bits - 1) - 1`: zero has a code, and the range is as wide on both sides."""
    return 2 ** (bits - 1) - 1


def scale_of(x: Float[Array, "..."], *, bits: int = 8, axes: tuple[int, ...]) -> Float[Array, "..."]:
    """`max |x| / largest_code` over `axes`, which stay with length 1; 1 where that is 0, infinite or no normal number.

    Up to 8 bits it is rounded to bfloat16, which is how it is stored: a code times the scale is then exact in float32,
    and what was quantised once comes out of a second time unchanged. The largest value still lies within half a step.
    `Q(c x) = c Q(x)` holds bit for bit where c is a power of two, with which rounding to bfloat16 commutes; for another
    c the scale of c x is rounded anew, and equals c times that of x to a relative 2^-8.
    """
    if not 2 <= bits <= 16:
        raise ValueError(f"bits is {bits}: 2 to 16 are allowed")
    x = jax.lax.stop_gradient(jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32)))
    scale = jnp.max(jnp.abs(x), axis=axes, keepdims=True) / largest_code(bits)
    if bits <= 8:
        scale = scale.astype(jnp.bfloat16).astype(x.dtype)
    usable = jnp.isfinite(scale) & (scale >= jnp.finfo(jnp.float32).tiny)
    return jnp.where(usable, scale, jnp.ones((), scale.dtype))


def quantize(
    x: Float[Array, "..."],
    *,
    bits: int = 8,
    axes: tuple[int, ...],
    scale: Float[Array, "..."] | None = None,
    key: Key[Array, ""] | None = None,
) -> tuple[Int[Array, "..."], Float[Array, "..."]]:
    """`q = clip(round(x / s), -Q, Q)`, `Q = 2^(bits - 1) - 1`; `x ~ q s`.

    Args:
      x: what is to be quantised.
      bits: of a code.
      axes: those that share a scale.
      scale: s where it is known; None: `scale_of(x)`.
      key: rounds up or down at random, so that the mean over keys is x; None: to the nearest, ties to even.

    Returns:
      `(q, s)`: int8 (up to 8 bits) or int32 codes, and the scale in float32 at least.

    Source: Jacob et al. 2018 (1712.05877), section 2.1, with zero point 0.
    """
    scale = scale_of(x, bits=bits, axes=axes) if scale is None else scale
    steps = x.astype(scale.dtype) / scale
    noise = 0.0 if key is None else jax.random.uniform(key, x.shape, scale.dtype) - 0.5
    steps = jnp.clip(jnp.round(steps + noise), -largest_code(bits), largest_code(bits))
    return steps.astype(jnp.int8 if bits <= 8 else jnp.int32), scale


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def round_through(x: Float[Array, "..."], scale: Float[Array, "..."], bits: int) -> Float[Array, "..."]:
    """`s clip(round(x / s))` with the gradient `dy/dx = 1` where `|x / s|` rounds to a code, else 0; none for s.

    Source: straight-through: Bengio et al. 2013 (1308.3432), section 4.
    """
    codes, _ = quantize(x, bits=bits, axes=(), scale=scale)
    return (codes * scale).astype(x.dtype)


def _round_forward(x, scale, bits):
    return round_through(x, scale, bits), (jnp.abs(x) <= (largest_code(bits) + 0.5) * scale, scale)


def _round_backward(bits, saved, g):
    inside, scale = saved
    return jnp.where(inside, g, jnp.zeros((), g.dtype)), jnp.zeros_like(scale)


round_through.defvjp(_round_forward, _round_backward)


def group_rows(x: Float[Array, "K *out"], group: int) -> Float[Array, "G group *out"]:
    """The first axis in groups of `group`, the last of which zeros fill up."""
    x = jnp.pad(x, [(0, -x.shape[0] % group)] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(-1, group, *x.shape[1:])


def pack_pairs(codes: Int8[Array, "G group *out"]) -> UInt8[Array, "G pairs *out"]:
    """Codes of 4 bits, two of the second axis in a byte, the first of them in its low half."""
    low, high = codes[:, 0::2].astype(jnp.uint8), codes[:, 1::2].astype(jnp.uint8)
    return (low & 15) | (high << 4)


def unpack_pairs(packed: UInt8[Array, "G pairs *out"]) -> Int8[Array, "G group *out"]:
    """What `pack_pairs` packed."""
    signed = packed.astype(jnp.int8)
    pairs = jnp.stack([(signed << 4) >> 4, signed >> 4], axis=2)
    return pairs.reshape(packed.shape[0], -1, *packed.shape[2:])


def sqnr(x: Float[Array, "..."], approximation: Float[Array, "..."], axes: tuple[int, ...]) -> Float[Array, "..."]:
    """`10 log10(|x|^2 / |x - x'|^2)` over `axes`, in decibels; infinite where nothing was lost."""
    error = jnp.sum(jnp.square(x - approximation), axis=axes)
    return 10 * jnp.log10(jnp.sum(jnp.square(x), axis=axes) / error)
