"""Beam search against all sequences of a tiny vocabulary, one by one."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.errors import UserError
from effjax.models.beam_search import NEVER, batch_axes, beam_search
from tests.models import test_seq2seq

END, VOCABULARY, LONGEST = 0, 4, 4
# What follows each of the two last tokens, for each of two rows: the state carries the row and the token before.
TABLE = jax.nn.log_softmax(3 * jax.random.normal(jax.random.key(0), (2, VOCABULARY, VOCABULARY, VOCABULARY)))


def step(tokens, state):
    return TABLE[state["row"], state["before"], tokens], state | {"before": tokens, "calls": state["calls"] + 1}


def first_state(rows):
    return {
        "row": jnp.arange(rows) // max(rows // 2, 1),
        "before": jnp.full((rows,), 1),
        "calls": jnp.int32(0),
    }


def all_sequences(row, penalty):
    """Every sequence that ends in time, with its score, best first."""
    scored = []
    for n in range(1, LONGEST + 1):
        for body in itertools.product(range(1, VOCABULARY), repeat=n - 1):
            tokens, total, before, last = (*body, END), 0.0, 1, 2
            for token in tokens:
                total += float(TABLE[row, before, last, token])
                before, last = last, token
            scored.append((total / n**penalty, tokens))
    return sorted(scored, reverse=True)


@functools.partial(jax.jit, static_argnames=("beams", "penalty"))
def search(beams, penalty):
    axes = {"row": 0, "before": 0, "calls": -1}
    start = first_state(2 * beams)
    options = dict(end=END, beams=beams, max_length=LONGEST, length_penalty=penalty)
    return beam_search(step, start, axes, jnp.full((2,), 2), **options)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_with_beams_for_every_beginning_it_finds_the_best_of_all_sequences(penalty):
    beams = (VOCABULARY - 1) ** (LONGEST - 1)
    found = search(beams, penalty)
    for row in range(2):
        expected = all_sequences(row, penalty)[:beams]
        np.testing.assert_allclose(found.scores[row], [score for score, _ in expected], rtol=1e-4, atol=1e-5)
        for rank in range(5):
            written = tuple(np.asarray(found.tokens[row, rank])[: found.lengths[row, rank]].tolist())
            assert written == expected[rank][1]


def test_one_beam_is_greedy_and_more_beams_score_no_worse():
    penalty = 0.0
    one, three = search(1, penalty), search(3, penalty)
    for row in range(2):
        best, _ = all_sequences(row, penalty)[0]
        assert one.scores[row, 0] <= three.scores[row, 0] + 1e-6 <= best + 2e-6
        before, last, total, candidates = 1, 2, 0.0, []
        for _ in range(LONGEST):  # greedy among what goes on; ends anywhere
            candidates.append(total + float(TABLE[row, before, last, END]))
            token = 1 + int(np.argmax(TABLE[row, before, last, 1:]))
            total += float(TABLE[row, before, last, token])
            before, last = last, token
        assert float(one.scores[row, 0]) == pytest.approx(max(candidates), abs=1e-5)


def test_it_stops_as_soon_as_nothing_can_be_overtaken():
    """A model that always ends at once is asked once."""
    calls = []

    def ends(tokens, state):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.full((tokens.shape[0], VOCABULARY), NEVER).at[:, END].set(0.0), state

    found = jax.jit(lambda: beam_search(ends, (), (), jnp.zeros(2, int), end=END, beams=1, max_length=50))()
    np.testing.assert_array_equal(found.lengths, 1)
    jax.effects_barrier()
    assert len(calls) == 1


def test_states_of_a_decoder_follow_their_beams():
    """Scores of what is found are those of the parallel pass over the same tokens."""
    model, params = test_seq2seq.model_and_params("lsra")
    beams, longest = 3, 6
    inputs = jnp.asarray(test_seq2seq.ids(2, 5))
    make_state = lambda rows: model.initial_state(rows, max_length=longest)

    @jax.jit
    def run(params):
        sources = model.apply(params, inputs, method="read")
        step = lambda tokens, state: model.apply(params, tokens[:, None], state, sources, method="step")
        first = jnp.ones(2, jnp.int32)
        options = dict(end=END, beams=beams, max_length=longest, length_penalty=0.0)
        return beam_search(step, make_state(2 * beams), batch_axes(make_state), first, **options)

    found = run(params)
    previous = np.concatenate([np.ones((2, beams, 1), np.int32), found.tokens[..., :-1]], axis=-1).reshape(6, longest)
    logits = test_seq2seq.logits("lsra", np.repeat(inputs, beams, axis=0), previous)
    log_p = np.asarray(jax.nn.log_softmax(logits)).reshape(2, beams, longest, -1)
    log_p = np.take_along_axis(log_p, np.asarray(found.tokens)[..., None], -1)[..., 0]
    there = np.arange(longest) < np.asarray(found.lengths)[..., None]
    np.testing.assert_allclose(found.scores, np.sum(log_p * there, axis=-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("setting", [{"beams": 0}, {"max_length": 0}, {"length_penalty": -0.1}])
def test_settings_that_make_no_sense_are_named(setting):
    options = dict(end=END, beams=1, max_length=1, length_penalty=1.0) | setting
    ((name, value),) = setting.items()
    with pytest.raises(UserError, match=f"{name}={value}"):
        beam_search(step, (), (), jnp.zeros(1, int), **options)
