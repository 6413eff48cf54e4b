"""The transducer's loss against the sum over every alignment, one by one, and its memory."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.accounting.memory import compiled_memory
from effjax.ops.transducer import lattice_loss, transducer_loss

LENGTHS, LABELS = (4, 3, 1), (3, 0, 2)
T, U, J, V = 4, 3, 5, 4


def arguments(seed=0):
    rng = np.random.default_rng(seed)
    shapes = dict(frames=(3, T, J), prefixes=(3, U + 1, J), kernel=(J, V), bias=(V,))
    arrays = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes.values()]
    return (*arrays, jnp.asarray(rng.integers(1, V, (3, U)), jnp.int32))


def options(**others):
    return dict(frame_lengths=jnp.array(LENGTHS), label_lengths=jnp.array(LABELS)) | others


def one_by_one(frames, prefixes, kernel, bias, labels):
    """Every order of T - 1 blanks and U labels, then the last blank; float64, autodiff where JAX runs it."""
    losses = []
    for row, (n_frames, n_labels) in enumerate(zip(LENGTHS, LABELS)):
        logits = jnp.tanh(frames[row][:, None] + prefixes[row]) @ kernel + bias
        scores = jax.nn.log_softmax(logits)
        paths = []
        for places in itertools.combinations(range(n_frames - 1 + n_labels), n_labels):
            time, prefix, path = 0, 0, 0.0
            for step in range(n_frames - 1 + n_labels):
                if step in places:
                    path, prefix = path + scores[time, prefix, labels[row, prefix]], prefix + 1
                else:
                    path, time = path + scores[time, prefix, 0], time + 1
            paths.append(path + scores[time, prefix, 0])
        losses.append(-jax.nn.logsumexp(jnp.stack(paths)))
    return jnp.stack(losses)


def test_loss_and_gradients_are_those_of_all_alignments():
    *arrays, labels = arguments()
    weights = jnp.array([1.0, 2.0, -0.5])

    def ours(*arrays):
        return weights @ transducer_loss(*arrays, labels, **options(frames_at_once=3))

    def theirs(*arrays):
        return weights @ one_by_one(*arrays, labels)

    value, grads = jax.jit(jax.value_and_grad(ours, range(4)))(*arrays)
    expected, expected_grads = jax.jit(jax.value_and_grad(theirs, range(4)))(*arrays)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), grads, expected_grads)


def test_padding_changes_nothing():
    frames, prefixes, kernel, bias, labels = arguments()
    loss = jax.jit(lambda *arrays: transducer_loss(*arrays, **options()))
    expected = loss(frames, prefixes, kernel, bias, labels)
    dirty = frames.at[1, 3:].set(1e3), prefixes.at[1, 1:].set(-1e3), kernel, bias, labels.at[1].set(9)
    np.testing.assert_allclose(loss(*dirty), expected, rtol=1e-6)
    longer = jnp.pad(frames, ((0, 0), (0, 2), (0, 0))), jnp.pad(prefixes, ((0, 0), (0, 3), (0, 0)))
    padded = transducer_loss(*longer, kernel, bias, jnp.pad(labels, ((0, 0), (0, 3))), **options())
    np.testing.assert_allclose(padded, expected, rtol=1e-6)


def test_no_path_is_a_great_loss_without_gradient():
    scores = jnp.zeros((1, 3, 2))
    none = jnp.array([0]), jnp.array([1])
    value, grads = jax.value_and_grad(lambda *x: lattice_loss(*x, *none)[0], (0, 1))(scores, scores)
    assert float(value) > 1e20 and all(not np.asarray(grad).any() for grad in grads)


def test_logits_of_all_frames_are_never_in_memory():
    """Forward and backward together stay below one array of all logits."""
    batch, length, count, width, symbols = 2, 64, 16, 8, 512
    shapes = (batch, length, width), (batch, count + 1, width), (width, symbols), (symbols,)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    labels = jax.ShapeDtypeStruct((batch, count), jnp.int32)
    lengths = dict(frame_lengths=jnp.array([64, 60]), label_lengths=jnp.array([16, 3]))

    def loss(*arrays):
        return transducer_loss(*arrays, **lengths, frames_at_once=4).sum()

    memory = compiled_memory(jax.grad(loss, range(4)), *arrays, labels)
    assert memory.temp < batch * length * (count + 1) * symbols * 4 / 2


def test_mistakes_are_named():
    frames, prefixes, *rest = arguments()
    with pytest.raises(ValueError, match="prefixes has length 3; one more than 3 labels"):
        transducer_loss(frames, prefixes[:, :3], *rest, **options())
