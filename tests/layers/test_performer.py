"""The Performer layer beyond the laws: what becomes of its projection, kernels without one, mistakes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.layers import PerformerAttention
from effjax.training.optimizers import decayed_parameters

SIZES = dict(d_model=8, n_heads=2, head_dim=4)


def make(**options):
    layer = PerformerAttention(**SIZES, **dict(n_features=6) | options)
    return layer, jax.jit(layer.init)(jax.random.key(0), jnp.zeros((1, 3, 8)))


def test_no_gradient_and_no_decay_reach_the_projection():
    layer, params = make()
    x = jax.random.normal(jax.random.key(1), (1, 5, 8))
    grads = jax.jit(jax.grad(lambda params: jnp.sum(layer.apply(params, x)[0] ** 2)))(params)["params"]
    assert not grads.pop("projection").any()
    assert all(leaf.any() for leaf in jax.tree.leaves(grads))
    decayed = decayed_parameters(params)["params"]
    assert not decayed.pop("projection") and all(jax.tree.leaves(decayed))


def test_the_projection_is_redrawn_on_schedule():
    layer, params = make(redraw_interval=3)
    params = params["params"]
    update = jax.jit(lambda params, step, key: layer.after_update(params, step=step, key=key))
    keys = jax.random.split(jax.random.key(2), 7)
    drawn = [np.asarray(params["projection"])]
    for step in range(7):
        params = update(params, jnp.int32(step), keys[step])
        drawn.append(np.asarray(params["projection"]))
    changed = [not np.array_equal(a, b) for a, b in itertools.pairwise(drawn)]
    assert changed == [False, False, True, False, False, True, False]
    gram = drawn[-1][:4] @ drawn[-1][:4].T
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-5
    kept, params = make(redraw_interval=0)
    assert kept.after_update(params["params"], step=jnp.int32(0), key=keys[0]) is params["params"]


def test_projections_and_their_absence():
    assert make()[1]["params"]["projection"].shape == (6, 4)
    assert make(per_head=True)[1]["params"]["projection"].shape == (2, 6, 4)
    layer, params = make(kernel="relu", n_features=0)
    assert "projection" not in params["params"]
    assert layer.after_update(params["params"], step=0, key=None) is params["params"]
    state = layer.initial_state(1, max_length=5)
    assert state.sums.total.shape == (1, 2, 4)
    x = jax.random.normal(jax.random.key(1), (1, 5, 8))
    step = jax.jit(layer.apply)
    y, state = step(params, x[:, :2], state)
    z, _ = step(params, x[:, 2:], state)
    np.testing.assert_allclose(np.concatenate([y, z], axis=1), step(params, x)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(kernel="cosine"), "kernel='cosine'"),
        (dict(scaling="sqrt"), "scaling='sqrt'"),
        (dict(n_features=0), "n_features=0 with kernel='softmax'"),
        (dict(redraw_interval=-1), "redraw_interval=-1"),
        (dict(chunk_size=0), "chunk_size=0"),
        (dict(n_heads=0), "n_heads=0"),
    ],
)
def test_mistakes_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        PerformerAttention(**SIZES | options)
