"""Law 3: any split of a sequence into pieces with the state carried along gives the output of one pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws.families import CHUNK
from tests.laws.measure import make_layer, relative_rms, tokens

LENGTH = 4 * CHUNK + 3
SPLITS = {
    "ones": [1] * LENGTH,
    "prefill": [2 * CHUNK + 3] + [1] * (2 * CHUNK),
    "uneven": [5, CHUNK + 3, 1, 2 * CHUNK, LENGTH - 3 * CHUNK - 9],
    "whole": [LENGTH],
}
QUICK = ("prefill",)
FEW_SIZES = [5, CHUNK + 3, 1, CHUNK + 3, 5, 1, 1]  # uneven, and three programs


@pytest.fixture
def streaming(family):
    """A layer whose single pass is what its stream computes, with parameters and inputs."""
    layer, params = make_layer(family, **family.streaming)
    x = tokens((2, LENGTH))
    return layer, params, x


compiled = functools.cache(lambda layer: jax.jit(layer.apply))


def run(layer, params, x, pieces, **sequence):
    apply = compiled(layer)
    state, outputs, start = layer.initial_state(x.shape[0], max_length=LENGTH), [], 0
    for length in pieces:
        piece = slice(start, start + length)
        y, state = apply(params, x[:, piece], state, **{name: array[:, piece] for name, array in sequence.items()})
        outputs.append(y)
        start += length
    assert start == x.shape[1]
    return np.concatenate(outputs, axis=1), state


@pytest.mark.needs("causal")
@pytest.mark.parametrize(
    "pieces",
    [pytest.param(SPLITS[name], id=name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in SPLITS],
)
def test_pieces_equal_one_pass(streaming, pieces):
    layer, params, x = streaming
    y, state = run(layer, params, x, pieces)
    whole, once = run(layer, params, x, [LENGTH])
    stateless = pieces == [LENGTH]
    assert relative_rms(y, compiled(layer)(params, x)[0] if stateless else whole) <= 1e-5
    assert relative_rms(state, once) <= 1e-6


@pytest.mark.needs("causal", "segments")
def test_pieces_of_packed_and_padded_sequences(streaming):
    layer, params, x = streaming
    segments = np.stack([np.arange(LENGTH) // 13, np.arange(LENGTH) // 6]).astype(np.int32)
    padding = np.ones((2, LENGTH), bool)
    padding[1, 4:7] = False
    x = jnp.where(padding[..., None], x, jnp.nan)
    whole, _ = compiled(layer)(params, x, padding_mask=padding, segment_ids=segments)
    y, _ = run(layer, params, x, FEW_SIZES, padding_mask=padding, segment_ids=segments)
    assert relative_rms(y, whole) <= 1e-5


@pytest.mark.needs("causal")
def test_state_size_is_what_the_family_promises(family):
    layer, _ = make_layer(family)
    size = lambda length: sum(leaf.size for leaf in jax.tree.leaves(layer.initial_state(1, max_length=length)))
    if layer.bounded_state:
        assert size(10_000) == size(100)
    else:
        assert 1.9 < size(10_000) / size(5_000) <= 2.0


@pytest.mark.needs("causal")
def test_outgrowing_the_state_does_not_go_unnoticed(family):
    layer, params = make_layer(family)
    state, step, outputs = layer.initial_state(2, max_length=4), jax.jit(layer.apply), []
    for t in range(6):
        y, state = step(params, tokens((2, 1), seed=t), state)
        outputs.append(bool(np.isfinite(y).all()))
    assert outputs == [True] * 4 + [layer.bounded_state] * 2


@pytest.mark.needs("causal", "both_sides")
def test_only_causal_layers_stream(family):
    layer, _ = make_layer(family, causal=False)
    with pytest.raises(ValueError, match="causal=False"):
        layer.initial_state(1, max_length=8)
