"""The encoder-decoder: padding, packing, causality and decoding step by step, whatever its mixers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.errors import UserError
from effjax.models.seq2seq import make_seq2seq, seq2seq_config

SOURCE, TARGET, VOCABULARY = 11, 9, 13
PATTERNS = {
    "full": (("full",), ("full",)),
    "lsra": (("lsra",), ("lsra",)),
    "longformer": (("longformer",), ("full",)),
    "linformer": (("linformer",), ("dynamic_conv", "full")),
}
SETTINGS = {
    "lsra": dict(kernel_size=(3,), conv_heads=2),
    "longformer": dict(window=(2,), global_tokens=1),
    "linformer": dict(n_projected=4, max_length=16),
    "dynamic_conv": dict(kernel_size=(3,)),
}


def small_config(name, **settings):
    encoder, decoder = PATTERNS[name]
    config = seq2seq_config(encoder, decoder)
    config.update(d_model=16, d_ff=16, n_heads=2, head_dim=4, cross_heads=2, cross_head_dim=8, norm="post")
    for side, pattern in (("encoder", encoder), ("decoder", decoder)):
        config[side].n_layers = 2
        for mixer in set(pattern) & set(SETTINGS):
            config[side][mixer].update(SETTINGS[mixer])
    config.update(settings)
    return config


@functools.cache
def model_and_params(name, **settings):
    model = make_seq2seq(small_config(name, **settings), vocab_size=VOCABULARY)
    ids = jnp.zeros((1, 1), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(0), ids, ids)
    return model, jax.tree.map(lambda x: 2 * x, params)  # so that attention is far from even


def ids(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY, shape).astype(np.int32)


def logits(name, inputs, previous, **arguments):
    model, params = model_and_params(name)
    return np.asarray(jax.jit(model.apply)(params, inputs, previous, **arguments))


def each_pattern(quick):
    """Every pattern, of which all but one are for the slow tests."""
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=[] if name == quick else pytest.mark.slow) for name in PATTERNS]
    )


def mask(lengths, longest):
    return np.arange(longest) < np.array(lengths)[:, None]


@each_pattern("lsra")
def test_decoding_step_by_step_equals_the_parallel_pass(name):
    model, params = model_and_params(name)
    inputs, previous, real = ids(2, SOURCE), ids(2, TARGET, seed=1), mask([SOURCE, 6], SOURCE)
    whole = logits(name, inputs, previous, source={"padding_mask": real})
    sources = jax.jit(functools.partial(model.apply, method="read"))(params, inputs, padding_mask=real)
    state, step = model.initial_state(2, max_length=TARGET), jax.jit(functools.partial(model.apply, method="step"))
    for t in range(TARGET):
        scores, state = step(params, previous[:, t : t + 1], state, sources)
        np.testing.assert_allclose(scores, whole[:, t], rtol=2e-4, atol=2e-5)


@each_pattern("lsra")
def test_a_batch_of_unequal_lengths_equals_its_pairs_one_by_one(name):
    lengths = {"source": [SOURCE, 6], "target": [5, TARGET]}
    rules = {side: {"padding_mask": mask(n, longest)} for (side, n), longest in zip(lengths.items(), (SOURCE, TARGET))}
    inputs, previous = ids(2, SOURCE), ids(2, TARGET, seed=1)
    together = logits(name, inputs, previous, **rules)
    for row, (s, t) in enumerate(zip(*lengths.values())):
        alone = logits(name, inputs[row : row + 1, :s], previous[row : row + 1, :t])
        np.testing.assert_allclose(together[row, :t], alone[0], rtol=2e-4, atol=2e-5)
    other = [np.where(rules[side]["padding_mask"], x, 7) for side, x in (("source", inputs), ("target", previous))]
    real = rules["target"]["padding_mask"]
    np.testing.assert_array_equal(logits(name, *other, **rules)[real], together[real])


@pytest.mark.parametrize("name", [pytest.param("full", marks=pytest.mark.slow), "lsra"])
def test_packed_pairs_do_not_see_each_other(name):
    """Two pairs in one row give what each gives alone, positions from 0 in both."""
    sources, targets = [ids(1, 5), ids(1, 6, seed=2)], [ids(1, 4, seed=3), ids(1, 5, seed=4)]

    def packed(pieces):
        places = [np.arange(piece.shape[1], dtype=np.int32) for piece in pieces]
        numbers = [np.full(len(place), i, np.int32) for i, place in enumerate(places)]
        rules = {"positions": np.concatenate(places)[None], "segment_ids": np.concatenate(numbers)[None]}
        return np.concatenate(pieces, axis=1), rules

    (inputs, source), (previous, target) = packed(sources), packed(targets)
    together = logits(name, inputs, previous, source=source, target=target)
    alone = [logits(name, *pair) for pair in zip(sources, targets)]
    np.testing.assert_allclose(together, np.concatenate(alone, axis=1), rtol=2e-4, atol=2e-5)


@pytest.mark.slow
def test_targets_see_the_whole_source_and_only_their_past():
    inputs, previous = ids(1, SOURCE), ids(1, TARGET, seed=1)
    before = logits("lsra", inputs, previous)
    for place in (0, SOURCE - 1):
        changed = inputs.copy()
        changed[0, place] = (changed[0, place] + 1) % VOCABULARY
        assert np.all(np.any(logits("lsra", changed, previous) != before, axis=-1))
    changed = previous.copy()
    changed[0, 4] = (changed[0, 4] + 1) % VOCABULARY
    after = logits("lsra", inputs, changed)
    np.testing.assert_array_equal(after[0, :4], before[0, :4])
    assert np.all(np.any(after[0, 4:] != before[0, 4:], axis=-1))


@pytest.mark.slow
def test_rows_of_one_source_share_its_keys():
    """Three beams a source look up one copy, and find what three copies would give."""
    model, params = model_and_params("full")
    inputs, previous = ids(2, SOURCE), ids(6, TARGET, seed=1)
    real = mask([SOURCE, 6], SOURCE)

    @jax.jit
    def write(inputs, real):
        sources = model.apply(params, inputs, padding_mask=real, method="read")
        return model.apply(params, jnp.asarray(previous), sources=sources, method="write")[0]

    shared, copied = write(inputs, real), write(np.repeat(inputs, 3, 0), np.repeat(real, 3, 0))
    np.testing.assert_allclose(shared, copied, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_recomputed_blocks_drop_the_same_and_give_the_same_gradients():
    inputs, previous, targets = map(jnp.asarray, (ids(2, SOURCE), ids(2, TARGET, seed=1), ids(2, TARGET, seed=2)))

    def gradients(**settings):
        model, params = model_and_params("full", dropout=0.1, **settings)

        def loss(params):
            options = dict(deterministic=False, rngs={"dropout": jax.random.key(1)}, method="nats")
            return jnp.mean(model.apply(params, inputs, previous, targets, **options)[0])

        return jax.jit(jax.grad(loss))(params)

    plain, again = gradients(), gradients(remat=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), plain, again)
    values = plain["params"]["encoder"]["stack"]["period"]["mixing_0"]["mixer"]["value"]
    assert np.all(np.any(values["kernel"] != 0, axis=(1, 2, 3)))  # through the attention to the source, to every layer


def test_smoothed_targets_cost_nats_and_a_margin():
    model, params = model_and_params("full")
    inputs, previous, targets = ids(2, SOURCE), ids(2, TARGET, seed=1), ids(2, TARGET, seed=2)
    nats, margin = jax.jit(functools.partial(model.apply, method="nats"))(params, inputs, previous, targets)
    log_p = jax.nn.log_softmax(logits("full", inputs, previous))
    smooth = 0.9 * np.eye(VOCABULARY)[targets] + 0.1 / VOCABULARY
    np.testing.assert_allclose(nats + 0.1 * margin, -np.sum(smooth * log_p, axis=-1), rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder.full.causal": True}, "FullAttention is causal: an encoder needs"),
        ({"decoder.full.causal": False}, "causal=False cannot stream"),
        ({"decoder.n_layers": 0}, "model.n_layers=0"),
        ({"cross_heads": 0}, "n_heads=0"),
        ({"encoder.positions": "rope"}, "model.positions='rope'"),
    ],
)
def test_settings_that_make_no_sense_are_named(change, message):
    config = small_config("full")
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=message):
        make_seq2seq(config, vocab_size=VOCABULARY)
