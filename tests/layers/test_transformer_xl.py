"""Transformer-XL's layer: what its memory means, against the definition and against itself in other pieces."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.layers import TransformerXLAttention
from effjax.models.build import decoder_config, make_decoder
from effjax.ops.full import full_attention
from effjax.ops.positions import sinusoidal_positions
from tests.ops.relative_oracle import dense

WIDTH, MEMORY = 16, 24


def make(**options):
    """A layer, and parameters that any layer of these sizes takes."""
    layer = TransformerXLAttention(
        **dict(d_model=WIDTH, n_heads=2, head_dim=8, memory_length=MEMORY, implementation="batched") | options
    )
    return layer, parameters()


@functools.cache
def parameters():
    layer = TransformerXLAttention(d_model=WIDTH, n_heads=2, head_dim=8)
    params = jax.jit(layer.init)(jax.random.key(0), jnp.zeros((1, 1, WIDTH)))["params"]
    rng = np.random.default_rng(0)
    biases = {name: jnp.asarray(rng.normal(size=(2, 8)), jnp.float32) for name in ("content_bias", "position_bias")}
    return {"params": params | biases}


def inputs(length, batch=2, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, length, WIDTH)), jnp.float32)


def in_pieces(layer, params, x, pieces):
    run, state, outputs, start = jax.jit(layer.apply), layer.initial_state(x.shape[0], max_length=x.shape[1]), [], 0
    for length in pieces:
        y, state = run(params, x[:, start : start + length], state)
        outputs.append(y)
        start += length
    return np.concatenate(outputs, axis=1), state


def close(ours, theirs, bound=1e-5):
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max() <= bound * np.abs(np.asarray(theirs)).max()


@pytest.mark.parametrize("pieces", [[6] * 4, [12] * 2, [24]], ids=str)
def test_pieces_are_one_pass_while_all_of_the_past_fits(pieces):
    layer, params = make()
    x = inputs(24)
    assert close(in_pieces(layer, params, x, pieces)[0], jax.jit(layer.apply)(params, x)[0])


def by_definition(params, x, visible, clamp=None):
    """Distances by themselves, one pair of a query and a key at a time."""
    weights = params["params"]
    heads = lambda name, x: jnp.einsum("...d,dnh->...nh", x, weights[name]["kernel"])
    distances = np.minimum(np.arange(x.shape[1]), x.shape[1] if clamp is None else clamp)
    rel = heads("distance", sinusoidal_positions(jnp.asarray(distances), WIDTH))
    projected = (heads(name, x) for name in ("query", "key", "value"))
    y, _ = dense(*projected, rel, weights["content_bias"], weights["position_bias"], visible=visible[None, None])
    return jnp.einsum("btnh,nhd->btd", y, weights["out"]["kernel"])


@functools.cache
def three_layers():
    """A decoder of several layers whose memory holds all of a text, its parameters, the text, and its losses."""
    section = decoder_config(pattern=("transformer_xl",))
    section.update(d_model=WIDTH, d_ff=32, n_heads=2, head_dim=8, n_layers=3, positions="none", norm="post")
    section.transformer_xl.update(memory_length=256)
    assert not section.transformer_xl.same_length and not section.transformer_xl.clamp_length
    model = make_decoder(section, vocab_size=11)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype) / 2, shapes)
    ids = rng.integers(0, 11, (2, 257)).astype(np.int32)
    run = jax.jit(functools.partial(model.apply, method="nats"))
    return model, params, ids, run, run(params, ids[:, :-1], ids[:, 1:])[0]


@pytest.mark.parametrize("pieces", [[64] * 4, [128] * 2, pytest.param([256], marks=pytest.mark.slow)], ids=str)
def test_invariants_3_and_8_losses_of_any_segments_are_those_of_one_pass(pieces):
    """Three layers without same_length, the memory as long as the text: T = 64 x 4 and T = 128 x 2, token by token."""
    model, params, ids, run, whole = three_layers()
    empty = model.initial_state(2, max_length=256)
    state, start, nats = empty, 0, []
    for length in pieces:
        tokens, targets = ids[:, start : start + length], ids[:, start + 1 : start + length + 1]
        loss, state = run(params, tokens, targets, state)
        nats.append(loss)
        start += length
    assert close(np.concatenate(nats, axis=1), whole)
    if len(pieces) > 1:  # without what stands before it, the last piece has another loss
        assert not close(run(params, tokens, targets, empty)[0], nats[-1], 1e-2)


def test_a_short_memory_is_seen_whole_from_every_place_of_a_piece():
    """One layer: a query sees its piece up to itself and the `memory_length` tokens before the piece."""
    piece, memory, length = 5, 7, 20
    layer, params = make(memory_length=memory, clamp_length=6)
    i, j = np.ogrid[:length, :length]
    visible = (j <= i) & (j >= i // piece * piece - memory)
    x = inputs(length)
    ours, state = in_pieces(layer, params, x, [piece] * (length // piece))
    assert close(ours, by_definition(params, x, visible, clamp=6))
    np.testing.assert_array_equal(state.rows[0], x[:, -memory:])


def test_same_length_sees_as_many_tokens_from_everywhere():
    layer, params = make(memory_length=7, same_length=True)
    i, j = np.ogrid[:20, :20]
    visible = (j <= i) & (i - j < 7)
    assert set(visible.sum(1)[6:]) == {7}
    x = inputs(20)
    assert close(in_pieces(layer, params, x, [7, 5, 8])[0], by_definition(params, x, visible))


def test_nothing_flows_back_into_the_memory_which_is_used():
    layer, params = make()
    state = in_pieces(layer, params, inputs(30), [30])[1]

    @jax.jit
    def loss(rows, x):
        return jnp.sum(layer.apply(params, x, state.replace(rows=rows))[0] ** 2)

    x = inputs(6, seed=1)
    memory, own = jax.grad(loss, (0, 1))(state.rows, x)
    assert not np.asarray(memory[0]).any() and np.asarray(own).any()
    assert float(loss(state.rows, x)) != float(loss((state.rows[0] + 1,), x))


def test_without_biases_and_distances_it_is_plain_causal_attention():
    layer, params = make()
    weights = jax.tree.map(jnp.zeros_like, params["params"])
    kept = {name: params["params"][name] for name in ("query", "key", "value", "out")}
    x = inputs(20)
    y = jax.jit(layer.apply)({"params": weights | kept}, x)[0]
    heads = [jnp.einsum("btd,dnh->btnh", x, kept[name]["kernel"]) for name in ("query", "key", "value")]
    mixed = full_attention(*heads, causal=True, implementation="batched")
    plain = jnp.einsum("btnh,nhd->btd", mixed, kept["out"]["kernel"])
    assert close(y, plain)


def test_where_a_sequence_stands_does_not_matter():
    layer, params = make()
    x = inputs(9)
    run = jax.jit(lambda positions: layer.apply(params, x, positions=positions)[0])
    positions = jnp.arange(9)[None].repeat(2, axis=0)
    np.testing.assert_array_equal(run(positions), run(positions + 1000))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(dict(same_length=True, clamp_length=9), id="same_length"),
        pytest.param({}, id="whole_memory", marks=pytest.mark.slow),
    ],
)
def test_a_frozen_layer_projects_nothing_twice_and_gives_the_same(options):
    pieces = [9, 1, 1, 9]
    layer, params = make(**options)
    assert layer.adapt(params) == {}
    frozen = layer.clone(**layer.adapt(params, frozen=True))
    x = inputs(sum(pieces))
    ours, state = in_pieces(frozen, params, x, pieces)
    assert close(ours, in_pieces(layer, params, x, pieces)[0], 2e-6)
    assert [row.shape for row in state.rows] == [(2, MEMORY, 2, 8)] * 2
    projections = str(jax.make_jaxpr(frozen.apply)(params, x[:, :1], state)).count("dot_general")
    again = str(jax.make_jaxpr(frozen.apply)(params, x[:, :1], state.replace(distances=None))).count("dot_general")
    assert projections == again - 1


def test_an_empty_memory_of_zeros_takes_weight():
    """As the original starts: position and bias speak for keys that are zero."""
    layer, params = make(zero_memory=True)
    x = inputs(5)
    padded = jnp.concatenate([jnp.zeros((2, MEMORY, WIDTH)), x], axis=1)
    i, j = np.ogrid[: MEMORY + 5, : MEMORY + 5]
    expected = by_definition(params, padded, j <= i)[:, MEMORY:]
    assert close(jax.jit(layer.apply)(params, x)[0], expected)
    assert close(in_pieces(layer, params, x, [5])[0], expected)
    with pytest.raises(ValueError, match="segment_ids with zero_memory=True"):
        layer.apply(params, x, segment_ids=jnp.zeros((2, 5), jnp.int32))


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(memory_length=0), "memory_length=0"),
        (dict(clamp_length=-1), "clamp_length=-1"),
        (dict(position_dropout_rate=1.0), "position_dropout_rate=1.0"),
        (dict(d_model=15), "d_model=15"),
    ],
)
def test_mistakes_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        make(**options)
