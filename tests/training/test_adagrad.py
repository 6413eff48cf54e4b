"""Adagrad with clipped learning rates, against the rule written out tensor by tensor."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from effjax.errors import UserError
from effjax.training.optimizers import make_optimizer
from tests.training.fake_task import fake_config

LR, CLIP = 0.07, 0.03
OPTIONS = dict(name="adagrad", learning_rate=LR, warmup=4, eps=1e-10, clip_norm=0.0, tensor_clip=CLIP)


def optimizer(**options):
    return make_optimizer(fake_config(**{f"optimizer__{k}": v for k, v in (OPTIONS | options).items()}))


def written_out(grads, lr):
    """Parameter after each step of the rule for one tensor that starts at 0, in float64."""
    x, total, path = 0.0, 0.0, []
    for t, g in enumerate(np.asarray(grads, np.float64), 1):
        rate = lr * min(1, t / 4) * min(1, CLIP / np.linalg.norm(g))
        total = total + g**2
        x = x - rate * g / (np.sqrt(total) + 1e-10)
        path.append(x)
    return np.array(path)


def run(adagrad, grads, params):
    state, path = adagrad.init(params), []
    for g in grads:
        updates, state = jax.jit(adagrad.update)(g, state, params)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path


def assert_same_path(ours, theirs):
    """Steps may cancel: what float32 loses is measured by how far an element has been."""
    farthest = np.abs(theirs).max(0, keepdims=True)
    np.testing.assert_allclose(np.asarray(ours) / farthest, theirs / farthest, atol=2e-6)


def test_large_gradients_shorten_the_step_and_fill_the_accumulator():
    rng = np.random.default_rng(0)
    grads = rng.normal(size=(6, 5)) * np.array([1e-3, 10, 1e-3, 0.05, 1e-2, 3])[:, None]
    path = run(optimizer(), [{"w": jnp.asarray(g, jnp.float32)} for g in grads], {"w": jnp.zeros(5)})
    assert_same_path([p["w"] for p in path], written_out(grads, LR))


def test_the_update_of_a_large_gradient_has_the_norm_of_the_rule():
    """Invariant 8: lr 0.03 / |g| * g / sqrt(acc), from the second step on, where clipping g itself would differ."""
    g = {"w": jnp.array([3.0, 4.0])}
    adagrad = optimizer(warmup=0)
    _, state = adagrad.update(g, adagrad.init(g))
    update, _ = adagrad.update(g, state)
    np.testing.assert_allclose(update["w"], -LR * CLIP / 5 * g["w"] / np.sqrt(2 * np.asarray(g["w"]) ** 2), rtol=1e-6)


def test_every_tensor_of_every_layer_is_clipped_by_its_own_norm():
    """A scanned stack holds its layers in one array; elsewhere the first axis is the tensor's own."""
    rng = np.random.default_rng(1)
    grads = (rng.normal(size=(3, 4, 2, 5)) * np.logspace(-4, 2, 4)[:, None, None]).astype(np.float32)
    tree = lambda g: {"stack": {"period": {"kernel": g}}, "head": {"kernel": g}}
    path = run(optimizer(), [tree(jnp.asarray(g)) for g in grads], tree(jnp.zeros((4, 2, 5))))
    stacked = np.array([p["stack"]["period"]["kernel"] for p in path])
    for layer in range(4):
        assert_same_path(stacked[:, layer], written_out(grads[:, layer], LR))
    assert_same_path([p["head"]["kernel"] for p in path], written_out(grads, LR))


def test_without_clipping_it_is_plain_adagrad():
    g = {"w": jnp.array([3.0, -4.0])}
    adagrad = optimizer(warmup=0, tensor_clip=0.0)
    update, _ = adagrad.update(g, adagrad.init(g))
    np.testing.assert_allclose(update["w"], [-LR, LR], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(name="adam"), r"optimizer\.tensor_clip=0\.03"),
        (dict(tensor_clip=-1.0), r"optimizer\.tensor_clip=-1\.0"),
        (dict(weight_decay=0.1), r"optimizer\.weight_decay=0\.1"),
    ],
)
def test_settings_that_would_be_ignored_are_errors(options, message):
    with pytest.raises(UserError, match=message):
        optimizer(**options)
