"""Greedy and beam search, against every label sequence with all of its alignments."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from effjax.models.conformer import ConformerEncoder
from effjax.models.speech import CTCModel, TransducerModel
from effjax.models.transcription import TransducerBeam, ctc_beam, ctc_greedy, transducer_greedy
from effjax.ops.transducer import transducer_loss

FRAMES, SYMBOLS = 4, 3


def collapse(path):
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol)


def by_sequence(scores):
    """The probability of every label sequence, summed over the paths that collapse to it."""
    sums = {}
    for path in itertools.product(range(scores.shape[1]), repeat=len(scores)):
        labels = collapse(path)
        sums[labels] = np.logaddexp(sums.get(labels, -np.inf), scores[np.arange(len(scores)), path].sum())
    return sums


def random_scores(seed, rows=3):
    logits = np.random.default_rng(seed).normal(size=(rows, FRAMES, SYMBOLS)) * 2
    return np.asarray(jax.nn.log_softmax(jnp.asarray(logits, jnp.float32)))


def test_ctc_loss_and_beam_are_those_of_all_paths():
    for scores in random_scores(0):
        expected = by_sequence(scores.astype(np.float64))
        found = dict(ctc_beam(scores, beam=100))
        assert found.keys() == expected.keys()
        assert all(found[labels] == pytest.approx(expected[labels], abs=1e-6) for labels in expected)
        assert ctc_beam(scores, beam=100)[0][0] == max(expected, key=expected.get)
    rows = [(1, 2), (2, 2), (1,)]  # optax's loss, of the last of the scores
    labels = np.array([(*row, 0)[:2] for row in rows])
    beyond = np.arange(2) >= np.array([len(row) for row in rows])[:, None]
    nats = optax.losses.ctc_loss(np.stack([scores] * 3), np.zeros((3, FRAMES)), labels, beyond.astype(np.float32))
    np.testing.assert_allclose(nats, [-expected[row] for row in rows], rtol=1e-5)


def test_ctc_greedy_collapses_the_best_path_of_the_real_frames():
    scores, lengths = random_scores(1, rows=8), np.array([4, 4, 4, 3, 3, 2, 1, 4])
    symbols, counts = ctc_greedy(jnp.asarray(scores), jnp.arange(FRAMES) < lengths[:, None])
    for row, length in enumerate(lengths):
        best = collapse(scores[row, :length].argmax(-1))
        assert tuple(np.asarray(symbols[row, : counts[row]])) == best
        assert not np.asarray(symbols[row, counts[row] :]).any()


@functools.cache
def transducer():
    encoder = ConformerEncoder(4, 1, 1, kernel_size=3)
    model = TransducerModel(encoder, SYMBOLS, decoder_width=3, joint_width=5)
    labels = jnp.ones((1, 2), jnp.int32)
    mask = jnp.ones((1, 8), bool)
    init = lambda key: model.init(key, jnp.zeros((1, 8, 4)), labels, jnp.full(1, 2), padding_mask=mask, method="nats")
    variables = jax.jit(init)(jax.random.key(0))
    spread = lambda x: 3 * x if x.ndim > 1 else x
    return model, {"params": jax.tree.map(spread, variables["params"])} | {"batch_stats": variables["batch_stats"]}


@pytest.mark.slow
def test_transducer_beam_sums_all_alignments():
    model, variables = transducer()
    frames = jnp.asarray(np.random.default_rng(2).normal(size=(3, 5)), jnp.float32)
    found = TransducerBeam(model, variables, beam=40, most_per_frame=3)(np.asarray(frames))
    sequences = [labels for n in range(4) for labels in itertools.product((1, 2), repeat=n)]
    labels = np.array([(*row, 0, 0, 0)[:3] for row in sequences])
    lengths = np.array([len(row) for row in sequences])
    head = variables["params"]["head_kernel"], variables["params"]["head_bias"]

    @jax.jit
    def nats(labels, lengths):
        prefixes = model.apply(variables, labels, method="prefixes")
        rows = jnp.broadcast_to(frames, (len(labels), *frames.shape))
        every = jnp.full(len(labels), len(frames))
        return transducer_loss(rows, prefixes, *head, labels, frame_lengths=every, label_lengths=lengths)

    expected = dict(zip(sequences, -np.asarray(nats(labels, lengths))))
    found = dict(found)
    for row in sequences:
        if row in found:
            assert found[row] == pytest.approx(expected[row], abs=1e-4)
    best = max(expected, key=expected.get)
    assert best in found and len(set(sequences) & set(found)) >= 8


def test_transducer_greedy_walks_the_lattice():
    model, variables = transducer()
    frames = np.random.default_rng(3).normal(size=(2, 6, 5)).astype(np.float32) * 2
    lengths = np.array([6, 3])
    run = jax.jit(lambda x, mask: transducer_greedy(model, variables, x, mask))
    symbols, counts = run(frames, jnp.arange(6) < lengths[:, None])
    start = jax.jit(lambda: model.apply(variables, 1, method="start"))
    joint = jax.jit(lambda frame, prefix: model.apply(variables, frame, prefix, method="joint"))
    extend = jax.jit(lambda carry, label: model.apply(variables, carry, label, method="extend"))
    for row, length in enumerate(lengths):
        (carry, prefix), written = start(), []
        for frame in frames[row, :length]:
            for _ in range(4):
                best = int(joint(frame[None], prefix)[0].argmax())
                if best == 0:
                    break
                written.append(best)
                carry, prefix = extend(carry, jnp.array([best]))
        assert np.asarray(symbols[row, : counts[row]]).tolist() == written


def test_both_models_count_the_frames_that_an_alignment_needs():
    encoder = ConformerEncoder(4, 1, 1)
    labels, lengths = jnp.array([[1, 1, 2], [1, 1, 1], [2, 0, 0]]), jnp.array([3, 2, 1])
    assert CTCModel(encoder, 3).min_frames(labels, lengths).tolist() == [4, 3, 1]
    assert TransducerModel(encoder, 3).min_frames(labels, lengths).tolist() == [1, 1, 1]
