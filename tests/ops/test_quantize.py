"""Invariants of symmetric integers, in ops alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.ops.dense import dense_dot
from effjax.ops.kernels import QuantizedKernel, RoundedKernel, Scheme
from effjax.ops.quantize import largest_code, pack_pairs, round_through, scale_of, sqnr, unpack_pairs
from effjax.ops.quantize import quantize as quantize_eagerly

quantize = jax.jit(quantize_eagerly, static_argnames=("bits", "axes"))
X = np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32)
DIMENSIONS = ((1,), (0,)), ((), ())


def back(codes, scale):
    return np.asarray(codes, np.float64) * np.asarray(scale, np.float64)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_error_is_at_most_half_a_step_and_zero_stays_zero(bits):
    codes, scale = quantize(jnp.asarray(X).at[3].set(0.0), bits=bits, axes=(0,))
    error = np.abs(back(codes, scale) - np.where(np.arange(24)[:, None] == 3, 0, X))
    assert (error <= 0.5001 * np.asarray(scale)).all()
    assert not np.asarray(codes)[3].any()
    assert np.abs(np.asarray(codes, int)).max() == largest_code(bits)  # never -128


@pytest.mark.parametrize("bits", [4, 8])
def test_quantising_again_changes_nothing_codes_and_scale(bits):
    x = jnp.asarray(X * np.exp(np.random.default_rng(1).normal(size=(1, 6)) * 5), jnp.float32)
    codes, scale = quantize(x, bits=bits, axes=(0,))
    again, scale_again = quantize(codes * scale, bits=bits, axes=(0,))
    np.testing.assert_array_equal(codes, again)
    np.testing.assert_array_equal(scale, scale_again)
    np.testing.assert_array_equal(scale, scale.astype(jnp.bfloat16).astype(jnp.float32))


def test_each_further_bit_halves_the_step_and_sixteen_bits_converge():
    errors = [np.abs(back(*quantize(jnp.asarray(X), bits=bits, axes=(0, 1))) - X).max() for bits in (5, 6, 7, 8, 16)]
    steps = [float(scale_of(jnp.asarray(X), bits=bits, axes=(0, 1)).item()) for bits in (5, 6, 7, 8)]
    np.testing.assert_allclose(np.divide(steps[:-1], steps[1:]), 2.0, rtol=0.04)
    assert errors[-1] < 1e-4 and errors[3] < errors[0] / 4


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("exponent", [-60, -3, 1, 2, 3, 60])
def test_scaling_by_a_power_of_two_scales_the_result_bit_for_bit(bits, exponent):
    """`Q(c x) = c Q(x)`. Of other factors the scale is rounded to bfloat16 anew: `test_scaling_by_any_factor_…`."""
    x, c = jnp.asarray(X), 2.0**exponent
    (codes, scale), (scaled_codes, scaled) = quantize(x, bits=bits, axes=(0,)), quantize(c * x, bits=bits, axes=(0,))
    np.testing.assert_array_equal(scaled_codes, codes)
    np.testing.assert_array_equal(back(scaled_codes, scaled), c * back(codes, scale))


@pytest.mark.parametrize("factor", [0.1, 3.0, 7.7])
def test_scaling_by_any_factor_scales_the_result_within_the_rounding_of_the_scale(factor):
    """Scales are bfloat16, of 8 significant bits: `s(c x)` is within 2^-8 of `c s(x)`, each being within 2^-9 of what
    it stands for; both results are within half a step of the same c x."""
    x = jnp.asarray(X)
    (codes, scale), (scaled_codes, scaled) = quantize(x, axes=(0,)), quantize(factor * x, axes=(0,))
    np.testing.assert_allclose(scaled, factor * np.asarray(scale), rtol=2**-7.9)
    assert (np.abs(back(scaled_codes, scaled) - factor * back(codes, scale)) <= 1.01 * factor * np.asarray(scale)).all()


def test_a_scale_for_each_column_loses_less_than_one_for_all():
    x = jnp.asarray(X * np.array([1, 2, 4, 8, 16, 32], np.float32))
    by_column, together = (back(*quantize(x, axes=axes)) - np.asarray(x) for axes in ((0,), (0, 1)))
    assert np.square(by_column).sum() <= np.square(together).sum()
    assert (np.abs(by_column).max(0) <= np.abs(together).max(0) + 1e-6).all()


@pytest.mark.parametrize("value", [0.0, 3.0, np.inf, 1e-42])
def test_zero_constant_infinite_and_tiny_columns_give_no_nan(value):
    codes, scale = quantize(jnp.full((4, 2), value), axes=(0,))
    assert np.isfinite(back(codes, scale)).all()
    if value in (0.0, 3.0):
        np.testing.assert_allclose(back(codes, scale), value, rtol=5e-3)


def test_random_rounding_has_the_right_mean():
    x = jnp.asarray(X[:4])
    draw = lambda key: jnp.multiply(*quantize(x, bits=4, axes=(0,), key=key))
    draws = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 4096))
    scale = np.asarray(scale_of(x, bits=4, axes=(0,)))
    largest = np.abs(X[:4]) >= 6.9 * scale  # at the end of the range there is no upper neighbour
    assert (np.abs(np.asarray(draws).mean(0) - X[:4]) <= 0.05 * scale)[~largest].all()


def test_the_straight_through_gradient_is_the_mask_of_what_was_not_clipped():
    x, scale = jnp.asarray(X), jnp.float32(0.01)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(3.0 * round_through(x, scale, 8))))(x)
    np.testing.assert_array_equal(gradient, 3.0 * (np.abs(X) <= 1.275))
    assert (np.abs(X) > 1.275).any()
    assert not np.asarray(jax.grad(lambda s: jnp.sum(round_through(x, s, 8)))(scale)).any()


def test_pairs_of_four_bits_unpack_to_what_they_were():
    codes = jnp.asarray(np.random.default_rng(0).integers(-7, 8, (3, 8, 5)), jnp.int8)
    packed = pack_pairs(codes)
    assert packed.shape == (3, 4, 5) and packed.dtype == jnp.uint8
    np.testing.assert_array_equal(unpack_pairs(packed), codes)


@pytest.mark.parametrize("activations", ["dynamic", "static"])
def test_the_integer_product_is_the_float64_product_of_what_the_integers_stand_for(activations):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(5, 64)).astype(np.float32), rng.normal(size=(64, 7)).astype(np.float32)
    kernel = QuantizedKernel.of(jnp.asarray(w), Scheme((0,), activations=activations), jnp.float32(0.02))
    y = jax.jit(lambda x, kernel: dense_dot(x, kernel, DIMENSIONS))(x, kernel)
    codes, scale = quantize(jnp.asarray(x), axes=(1,), scale=0.02 * jnp.ones(()) if activations == "static" else None)
    expected = back(codes, scale) @ back(kernel.codes, kernel.scale.astype(jnp.float32))
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
    largest = np.abs(np.asarray(codes, np.int64)) @ np.abs(np.asarray(kernel.codes, np.int64))
    exact = jax.lax.dot_general(codes, kernel.codes, DIMENSIONS, preferred_element_type=jnp.int32)
    np.testing.assert_array_equal(exact, np.asarray(codes, np.int64) @ np.asarray(kernel.codes, np.int64))
    assert largest.max() > 2**15  # more than 16 bits were needed


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme((0,)),
        Scheme((0,), 4, group=16),
        Scheme((0,), activations="dynamic"),
        Scheme((0,), activations="static"),
    ],
    ids=["int8", "int4", "dynamic", "static"],
)
def test_our_product_of_float64_inputs_is_that_of_the_operands_to_float64(scheme):
    """Codes, their product and the scales are exact; nothing on the way is narrower than the inputs."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, w = rng.normal(size=(5, 64)), rng.normal(size=(64, 7)).astype(np.float32)
        kernel = QuantizedKernel.of(jnp.asarray(w), scheme, jnp.float32(0.02))
        y = jax.jit(lambda x, kernel: dense_dot(x, kernel, DIMENSIONS))(x, kernel)
        assert y.dtype == jnp.float64
        seen = x
        if scheme.activations != "float":
            seen = back(*quantize(jnp.asarray(x), axes=(1,), scale=kernel.activation_scale))
        expected = seen @ np.asarray(kernel.array(jnp.float64))
        np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scheme", [Scheme((0, 1)), Scheme((0, 1), 4, group=16)], ids=["int8", "int4"])
def test_rounding_in_training_is_what_the_integers_compute_later(scheme):
    """A kernel of heads, two contracted axes of which the groups do not divide the product."""
    w = jnp.asarray(np.random.default_rng(0).normal(size=(3, 7, 6)), jnp.float32)
    quantized, rounded = QuantizedKernel.of(w, scheme), RoundedKernel(w, scheme)
    np.testing.assert_allclose(quantized.array(jnp.float32), rounded.array(jnp.float32), rtol=1e-6)
    assert float(sqnr(w, quantized.array(jnp.float32), (0, 1, 2))) > (40 if scheme.bits == 8 else 17)
    if scheme.bits == 4:
        assert quantized.codes.shape == (2, 8, 6)  # half a byte each, 21 rows in two groups of 16


def test_eight_bits_of_a_normal_variable_keep_forty_decibels():
    x = jnp.asarray(np.random.default_rng(0).normal(size=4096), jnp.float32)
    assert 38 <= float(sqnr(x, jnp.multiply(*quantize(x, axes=(0,))), (0,))) <= 44


@pytest.mark.parametrize("settings", [dict(bits=5), dict(bits=4, activations="static"), dict(group=3)])
def test_schemes_that_do_not_exist_are_errors(settings):
    with pytest.raises(ValueError, match=r"allowed|weights only|one of"):
        Scheme((0,), **settings)
