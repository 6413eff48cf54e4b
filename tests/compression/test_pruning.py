"""Pruning in training: counts, schedules, structures, scores, and masks that hold through every update."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from effjax.compression.kernels import Kernel
from effjax.compression.prune import Plan, flat, prune, prune_once, sparsity_of
from effjax.compression.sparsity import cubic_sparsities, erk_densities, kept_counts
from effjax.compression.structure import Structure, keep_greatest, keep_n_of_m, structure_of
from effjax.errors import UserError

apply_updates = jax.jit(optax.apply_updates)
KERNELS = {
    "a/out/kernel": Kernel("a/out/kernel", (2, 4, 6), 3, (0, 1)),
    "b/inner/kernel": Kernel("b/inner/kernel", (8, 12), 0, (0,)),
}


@functools.cache
def params():
    rng = np.random.default_rng(0)
    tree = {
        "a": {"out": {"kernel": rng.normal(size=(3, 2, 4, 6))}},
        "b": {"inner": {"kernel": rng.normal(size=(8, 12))}},
    }
    tree["b"]["inner"]["bias"] = rng.normal(size=12)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def gradients(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), tree)


def train(plan, steps, optimizer=None):
    """Parameters after each update, and the optimizer's last state."""
    optimizer = prune(optimizer or optax.adamw(0.1, weight_decay=0.1), plan)
    tree, update, trees = params(), jax.jit(optimizer.update), []
    state = jax.jit(optimizer.init)(tree)
    for step in range(steps):
        updates, state = update(gradients(tree, step), state, tree)
        tree = apply_updates(tree, updates)
        trees.append(tree)
    return trees, state


def zeros(tree):
    """The number of zeros of each kernel and layer."""
    a, b = np.asarray(tree["a"]["out"]["kernel"]), np.asarray(tree["b"]["inner"]["kernel"])
    return [int((layer == 0).sum()) for layer in (*a, b)]


def plan_of(structure="weights", **settings):
    return Plan(structure_of(structure, KERNELS), **settings)


@pytest.mark.parametrize("method", ["magnitude", "saliency", "movement"])
def test_after_each_update_exactly_so_many_weights_are_zero_and_stay_so(method):
    """Through Adam's momentum and weight decay, on the cubic schedule."""
    plan = plan_of(method=method, sparsity=0.7, begin=1, end=7, every=2)
    trees, state = train(plan, 10)
    expected = [0, 0, 0, 1, 1, 2, 2, 3, 3, 3]  # which pruning each update follows
    sparsities = 0.7 * (1 - (1 - np.arange(4) / 3) ** 3)
    for i, tree in zip(expected, trees):
        assert zeros(tree) == [round(sparsities[i] * 48)] * 3 + [round(sparsities[i] * 96)]
    assert not np.asarray(trees[-1]["b"]["inner"]["bias"] == 0).any()
    dead = [np.asarray(tree["b"]["inner"]["kernel"] == 0) for tree in trees]
    assert all((later | ~earlier).all() for earlier, later in itertools.pairwise(dead))
    np.testing.assert_array_equal(dead[-1], ~np.asarray(flat(state.masks)["b/inner/kernel"]))
    assert sparsity_of(trees[-1], KERNELS) == pytest.approx(0.7, abs=0.01)


def test_sparsity_zero_is_bit_identical_to_the_optimizer_alone():
    trees, _ = train(plan_of(sparsity=0.0), 4)
    plain, tree = optax.adamw(0.1, weight_decay=0.1), params()
    state, update = plain.init(tree), jax.jit(plain.update)
    for step in range(4):
        updates, state = update(gradients(tree, step), state, tree)
        tree = apply_updates(tree, updates)
    assert jax.tree.all(jax.tree.map(np.array_equal, tree, trees[-1]))


def test_the_schedule_begins_at_zero_ends_at_the_whole_and_grows():
    table = cubic_sparsities(0.9, 5)
    assert table[0] == 0 and table[-1] == 0.9 and (np.diff(table) > 0).all()
    np.testing.assert_allclose(table, [0.9 - 0.9 * (1 - i / 5) ** 3 for i in range(6)])
    assert cubic_sparsities(0.5, 0).tolist() == [0.5]


def test_a_schedule_that_begins_above_zero_has_both_ends_exactly_and_grows():
    table = cubic_sparsities(0.9, 7, 0.2)
    assert table[0] == 0.2 and table[-1] == 0.9 and (np.diff(table) > 0).all()
    np.testing.assert_allclose(table, [0.9 + (0.2 - 0.9) * (1 - i / 7) ** 3 for i in range(8)])
    trees, _ = train(plan_of(initial=0.25, sparsity=0.75, begin=1, end=5, every=2), 7)
    for tree, share in zip(trees, (0, 0.25, 0.25, 0.6875, 0.6875, 0.75, 0.75)):
        assert zeros(tree) == [round(share * 48)] * 3 + [round(share * 96)]


def test_erk_has_the_density_asked_for_and_none_above_one():
    shapes = [(4, 4), (64, 64), (256, 64), (8, 8)]
    sizes = np.array([16, 4096, 16384, 64])
    for sparsity in (0.3, 0.7, 0.95):
        densities = erk_densities(shapes, sparsity)
        assert (densities <= 1).all()
        np.testing.assert_allclose((densities * sizes).sum() / sizes.sum(), 1 - sparsity)
    assert densities[0] > densities[1] > densities[2]
    counts = kept_counts(shapes, list(sizes), 0.7, "erk")
    assert abs(counts.sum() / sizes.sum() - 0.3) < 1e-3


def test_global_keeps_at_least_the_magnitude_that_uniform_keeps():
    kept = {}
    for distribution in ("uniform", "global"):
        small, _ = prune_once(params(), plan_of(sparsity=0.6, distribution=distribution))
        kept[distribution] = sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(small))
        assert sum(zeros(small)) == pytest.approx(0.6 * 240, abs=2)
    assert kept["global"] >= kept["uniform"]


def test_magnitude_masks_ignore_scale_and_follow_permutations():
    x = jnp.asarray(np.random.default_rng(0).normal(size=40), jnp.float32)
    mask, order = np.asarray(keep_greatest(jnp.abs(x), 11)), np.random.default_rng(1).permutation(40)
    np.testing.assert_array_equal(mask, keep_greatest(jnp.abs(7.0 * x), 11))
    np.testing.assert_array_equal(mask[order], keep_greatest(jnp.abs(x[order]), 11))
    assert np.asarray(keep_greatest(jnp.ones(9), 4)).tolist() == [True] * 4 + [False] * 5  # ties by index


def test_two_of_four_along_the_contracted_axis():
    trees, _ = train(plan_of("2:4", end=1), 3)
    for leaf, rows in ((trees[-1]["a"]["out"]["kernel"][1].reshape(8, 6), 8), (trees[-1]["b"]["inner"]["kernel"], 8)):
        assert ((np.asarray(leaf).reshape(rows // 4, 4, -1) != 0).sum(1) == 2).all()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)))
    assert np.asarray(keep_n_of_m(x, 4, 4)).all()
    group = np.asarray(keep_n_of_m(jnp.abs(x), 1, 8))
    np.testing.assert_array_equal(group.argmax(0), np.abs(np.asarray(x)).argmax(0))


def test_blocks_and_heads_go_as_a_whole():
    trees, _ = train(plan_of("block:4x3", sparsity=0.5), 2)
    blocks = np.asarray(trees[-1]["b"]["inner"]["kernel"] == 0).reshape(2, 4, 4, 3)
    assert (blocks.all((1, 3)) == blocks.any((1, 3))).all() and blocks.all((1, 3)).sum() == 4
    trees, _ = train(plan_of("heads", method="saliency", sparsity=0.5), 2)
    heads = np.asarray(trees[-1]["a"]["out"]["kernel"] == 0)
    assert (heads.all((2, 3)).sum(1) == 1).all() and zeros(trees[-1])[-1] == 0


def test_scores_are_the_hand_values_and_movement_is_the_gradient_of_a_straight_through_mask():
    tree, grads = params(), gradients(params(), 5)
    w, g = (t["b"]["inner"]["kernel"] for t in (tree, grads))
    small, _ = prune_once(tree, plan_of(method="saliency", sparsity=0.5), grads)
    product = np.abs(np.asarray(w * g))
    np.testing.assert_array_equal(
        np.asarray(small["b"]["inner"]["kernel"]) != 0, product >= np.sort(product.ravel())[48]
    )
    # loss = <g, mask(S) w>: the straight-through gradient of S takes the mask for its score.
    through = lambda scores: jnp.where(scores > 0, 1.0, 0.0) + scores - jax.lax.stop_gradient(scores)
    score_gradient = jax.grad(lambda scores: jnp.sum(g * through(scores) * w))(jnp.zeros_like(w))
    optimizer = prune(optax.sgd(0.1), plan_of(method="movement", sparsity=0.0))
    _, state = optimizer.update(grads, optimizer.init(tree), tree)
    np.testing.assert_allclose(flat(state.movement)["b/inner/kernel"], -score_gradient, rtol=1e-6)
    unit = Structure((2, 3)).scores(w, KERNELS["b/inner/kernel"])
    np.testing.assert_allclose(unit[1, 2], np.asarray(w)[2:4, 6:9].sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(sparsity=1.0), "sparsity 1.0"),
        (dict(sparsity=-0.1), "sparsity -0.1"),
        (dict(initial=0.6, sparsity=0.5, end=2), "initial sparsity 0.6; no more than"),
        (dict(initial=-0.1, end=2), "sparsity -0.1"),
        (dict(method="luck"), "method 'luck'"),
        (dict(distribution="fair"), "distribution 'fair'"),
        (dict(begin=0, end=5, every=2), "every divides"),
        (dict(structure="2:3"), "3 does not divide the 8 contracted"),
        (dict(structure="5:4"), "1 <= n <= m"),
        (dict(structure="block:3x3"), "does not divide"),
        (dict(structure="neurons"), "none of the kernels"),
        (dict(structure="lottery"), "structure 'lottery'"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_one_clear_error(settings, message):
    with pytest.raises(UserError, match=message):
        plan_of(**settings)
