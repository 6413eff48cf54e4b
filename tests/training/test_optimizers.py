"""Schedules by their formulas, optimizers by their updates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from effjax.errors import UserError
from effjax.training.optimizers import make_optimizer, make_schedule
from tests.training.fake_task import fake_config


def rate(t, **options):
    return float(make_schedule(fake_config(**{f"optimizer__{k}": v for k, v in options.items()}, steps=100))(t - 1))


@pytest.mark.parametrize("t", [1, 7, 1999, 2000, 2001, 50_000])
def test_rsqrt_is_the_papers_formula(t):
    expected = 0.03125 * min(1, t / 2000) / np.sqrt(max(t, 2000))
    np.testing.assert_allclose(rate(t, schedule="rsqrt", learning_rate=0.03125, warmup=2000), expected, rtol=1e-6)


def test_rsqrt_peaks_at_the_end_of_the_warmup():
    np.testing.assert_allclose(rate(2000, schedule="rsqrt", learning_rate=0.03125, warmup=2000), 6.99e-4, rtol=1e-3)


def test_cosine_warms_up_and_ends_at_zero():
    options = dict(schedule="cosine", learning_rate=0.5, warmup=20)
    np.testing.assert_allclose([rate(t, **options) for t in (10, 20, 60, 100, 101)], [0.25, 0.5, 0.25, 0, 0], atol=1e-7)


def test_constant_warms_up_and_stays():
    options = dict(schedule="constant", learning_rate=0.5, warmup=4)
    np.testing.assert_allclose([rate(t, **options) for t in (1, 4, 999)], [0.125, 0.5, 0.5], rtol=1e-6)
    assert rate(1, schedule="constant", learning_rate=0.5, warmup=0) == 0.5


def first_update(grad, **options):
    optimizer = make_optimizer(fake_config(**{f"optimizer__{k}": v for k, v in options.items()}))
    params = {"layer": {"kernel": jnp.full((2, 2), 10.0), "bias": jnp.full((2,), 10.0)}}
    grads = jax.tree.map(lambda x: jnp.full_like(x, grad), params)
    return optimizer.update(grads, optimizer.init(params), params)[0]["layer"]


def test_adam_takes_a_step_of_the_learning_rate_whatever_the_gradient():
    for grad in (1e-4, 3.0):
        np.testing.assert_allclose(first_update(grad, learning_rate=0.1)["kernel"], -0.1, rtol=1e-4)


def test_adamw_decays_kernels_and_spares_biases():
    update = first_update(1.0, name="adamw", learning_rate=0.1, weight_decay=0.5)
    np.testing.assert_allclose(update["kernel"], -0.1 - 0.1 * 0.5 * 10, rtol=1e-5)
    np.testing.assert_allclose(update["bias"], -0.1, rtol=1e-5)


def test_adafactor_scales_with_the_parameter_and_decays():
    update = first_update(1.0, name="adafactor", learning_rate=0.1, clip_norm=0.0)
    np.testing.assert_allclose(update["kernel"], -0.1 * 10, rtol=1e-4)
    decayed = first_update(1.0, name="adafactor", learning_rate=0.1, clip_norm=0.0, weight_decay=0.01)
    np.testing.assert_allclose(decayed["kernel"], -0.1 * 10 - 0.01 * 10, rtol=1e-4)


def test_clipping_bounds_the_global_norm():
    seen = []
    spy = optax.GradientTransformation(lambda p: (), lambda g, s, p=None: (seen.append(g) or g, s))
    optimizer = optax.chain(make_optimizer(fake_config(optimizer__name="adam")), spy)
    assert len(optimizer.init({"w": jnp.ones(2)})) == 2
    for clip, expected in ((0.5, 0.5), (0.0, 50.0), (100.0, 50.0)):
        clipper = make_optimizer(fake_config(optimizer__clip_norm=clip, optimizer__b1=0.5, optimizer__b2=0.5))
        grads = {"w": jnp.array([30.0, 40.0])}
        _, state = clipper.update(grads, clipper.init(grads), grads)
        mean = optax.tree.get(state, "mu")["w"] / 0.5
        np.testing.assert_allclose(jnp.linalg.norm(mean), expected, rtol=1e-6)


def test_unknown_names_and_decay_that_would_be_ignored():
    for options in (dict(name="sgd"), dict(schedule="step"), dict(name="adam", weight_decay=0.1)):
        with pytest.raises(UserError, match=r"config\.optimizer\."):
            make_optimizer(fake_config(**{f"optimizer__{k}": v for k, v in options.items()}))
