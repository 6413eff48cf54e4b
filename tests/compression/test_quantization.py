"""Quantised models: every mode, stack and family, whole and in pieces; training that rounds; static scales."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.compression.calibrate import calibrate
from effjax.compression.kernels import find_kernels, select
from effjax.compression.quantize import MODES, kernel_losses, nbytes, quantize_params, quantized_bytes
from effjax.errors import UserError
from effjax.layers import MIXERS
from effjax.models.generation import generate
from effjax.tasks import make_task
from tests.compression.families import family_config, masked_config
from tests.compression.models import tiny_config, tiny_params, tokens, with_settings
from tests.laws.measure import relative_norm

pytestmark = pytest.mark.usefixtures("mesh_of_one")

ALL = ((".", True),)
CAUSAL = [name for name in MIXERS if name not in ("linformer", "nystromformer", "full", "lsh")]


@functools.cache
def parts(*pattern, residual="residual", rules=()):
    """Task, float parameters, kernels."""
    task = make_task(tiny_config(*pattern, residual=residual))
    return task, tiny_params(pattern, residual=residual), select(find_kernels(task.init), rules, field="rules")


def logits(model, params, ids=None):
    return np.asarray(
        jax.jit(lambda params: model.apply({"params": params}, tokens() if ids is None else ids)[0])(params)
    )


@functools.cache
def float_logits(*pattern, residual="residual"):
    task, params, _ = parts(*pattern, residual=residual)
    return logits(task.model, params)


@pytest.mark.parametrize(
    ("mode", "residual"),
    [
        ("int4_weight_only", "reversible"),
        pytest.param("int8_weight_only", "residual", marks=pytest.mark.slow),
        pytest.param("int8_dynamic", "reversible", marks=pytest.mark.slow),
    ],
)
def test_integers_come_near_the_floats_in_scanned_and_reversible_stacks(mode, residual):
    task, params, kernels = parts("full", "local", residual=residual)
    small = jax.jit(lambda params: quantize_params(params, kernels, mode, 8))(params)
    error = relative_norm(logits(task.model, small), float_logits("full", "local", residual=residual))
    assert 0 < error <= {"int4_weight_only": 0.4}.get(mode, 0.1)
    assert nbytes(small) == quantized_bytes(params, kernels, mode, 8) < nbytes(params)
    assert min(kernel_losses(params, small, kernels).values()) >= (15 if mode == "int4_weight_only" else 38)


@pytest.mark.slow
@pytest.mark.parametrize("name", CAUSAL)
def test_every_family_in_integers_streams_as_it_runs_whole(name):
    task, params, kernels = parts(name, rules=ALL)
    small = jax.jit(lambda params: quantize_params(params, kernels, "int8_weight_only", 8))(params)
    assert all(kernel.layers == 2 for path, kernel in kernels.items() if path.startswith("stack"))
    ids = tokens(2, 8)
    whole = logits(task.model, small, ids)
    assert relative_norm(whole, logits(task.model, params, ids)) <= 0.05
    state, step, pieces = task.model.initial_state(2, max_length=8), jax.jit(task.model.apply), []
    for piece in np.split(ids, [6, 7], axis=1):
        y, state = step({"params": small}, piece, state)
        pieces.append(y)
    np.testing.assert_allclose(np.concatenate(pieces, 1), whole, atol=2e-5)


@pytest.mark.slow
def test_generation_is_the_same_with_integers_as_with_the_floats_that_they_stand_for():
    task, params, kernels = parts("full", "lsh", rules=ALL)
    small = quantize_params(params, kernels, "int8_weight_only", 8)
    stand_for = jax.tree.map(
        lambda leaf, like: leaf.array(jnp.float32) if hasattr(leaf, "array") and like.ndim == leaf.codes.ndim else leaf,
        small,
        params,
        is_leaf=lambda leaf: hasattr(leaf, "codes"),
    )
    stand_for = jax.tree.map(lambda leaf, like: leaf.reshape(like.shape), stand_for, params)
    ours, theirs = (
        generate(task.model, own, tokens(1, 6), length=6, key=jax.random.key(0), temperature=0.0)
        for own in (small, stand_for)
    )
    np.testing.assert_array_equal(ours, theirs)


def test_small_states_hold_a_quarter_and_lose_little_and_no_more_with_time():
    task, params, _ = parts("full")
    ids, exact = tokens(), float_logits("full")
    states = {}
    for small in (False, True):
        model = task.model.clone(stack=task.model.stack.clone(small_states=small))
        state, step, outputs = model.initial_state(2, max_length=16), jax.jit(model.apply), []
        for i in range(16):
            y, state = step({"params": params}, ids[:, i : i + 1], state)
            outputs.append(y)
        states[small] = state
        error = relative_norm(np.concatenate(outputs, 1), exact)
        assert error <= 2e-2 if small else error <= 1e-5
    old = {leaf.dtype for leaf in jax.tree.leaves(states[True])}
    assert jnp.int8.dtype in old and nbytes(states[True]) < 0.45 * nbytes(states[False])


STREAMED = {  # bytes of a tiny state in 8 bits, at most, per byte in floats
    "transformer_xl": 0.5,
    "window": 0.5,
    "longformer": 0.5,
    "lsh": 0.6,
    "adaptive_span": 0.5,
    "local": 0.5,
    "log_sparse": 0.7,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STREAMED)
def test_keys_values_and_memories_of_every_family_stream_in_eight_bits(name):
    """Against the same stream in floats, in pieces of unlike lengths, past the end of windows and memories."""
    config, params, ids = tiny_config(name), tiny_params((name,)), tokens(2, 24)
    outputs, sizes = {}, {}
    for small in (False, True):
        model = make_task(with_settings(config, quantization__states=small)).model
        state, step, pieces = model.initial_state(2, max_length=24), jax.jit(model.apply), []
        for piece in np.split(ids, [7, 14, 21, 22, 23], axis=1):
            y, state = step({"params": params}, piece, state)
            pieces.append(y)
        outputs[small], sizes[small] = np.concatenate(pieces, 1), nbytes(state)
        assert (jnp.int8.dtype in {leaf.dtype for leaf in jax.tree.leaves(state)}) == small
    assert 0 < relative_norm(outputs[True], outputs[False]) <= 3e-2
    assert sizes[True] <= STREAMED[name] * sizes[False]


def test_streams_that_keep_sums_and_models_without_streams_refuse_small_states():
    for name in ("performer", "light_conv"):
        with pytest.raises(UserError, match=r"states=True: streams of config\.model\.pattern=.* keep sums and tails"):
            make_task(with_settings(tiny_config(name), quantization__states=True))
    for config in (masked_config("linformer"), family_config("forecaster")):
        with pytest.raises(UserError, match="keeps no states in 8 bits; False is allowed"):
            make_task(with_settings(config, quantization__states=True))


def test_static_scales_are_the_greatest_activations_of_each_layer():
    task, params, kernels = parts("full", residual="reversible")
    batches = [{"inputs": jnp.asarray(ids), "targets": jnp.asarray(ids)} for ids in (tokens(), tokens()[::-1])]
    scales = calibrate(task.loss, params, batches, kernels)
    norm = next(path for path in scales if path.endswith("query/kernel"))
    assert scales[norm].shape == (2,) and (scales[norm] > 0).all() and (scales[norm] < 10 / 127).all()
    small = jax.jit(lambda params: quantize_params(params, kernels, "int8_static", 8, scales))(params)
    assert relative_norm(logits(task.model, small), float_logits("full", residual="reversible")) <= 0.1
    with pytest.raises(UserError, match="calibration data is empty"):
        calibrate(task.loss, params, [], kernels)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["int8_dynamic", "int4_weight_only"])
def test_training_rounds_and_its_gradients_reach_the_weights(mode):
    config = tiny_config("full", "local", residual="reversible")
    task = make_task(with_settings(config, quantization__mode=mode, quantization__group=8))
    plain, params = make_task(config), tiny_params(("full", "local"), residual="reversible")
    batch = {"inputs": jnp.asarray(tokens()), "targets": jnp.asarray(tokens()[:, ::-1])}
    (loss, grads), (plain_loss, plain_grads) = (
        jax.jit(jax.value_and_grad(lambda params, own=own: own.loss(params, batch)[0]))(params) for own in (task, plain)
    )
    stored = make_task(with_settings(task.config, quantization__stored=True))
    small = quantize_params(params, task.kernels, mode, 8)
    assert jax.tree.map(jnp.shape, small) == jax.tree.map(jnp.shape, stored.abstract_params)
    np.testing.assert_allclose(loss, jax.jit(lambda small: stored.loss(small, batch)[0])(small), rtol=2e-4)
    assert loss != plain_loss and all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))
    assert relative_norm(grads, plain_grads) <= (0.5 if mode == "int4_weight_only" else 0.1)


def test_the_float_path_is_bit_identical_to_the_untouched_model():
    """A task that quantises nothing is the plain class, and Flax's own layers give the same bits."""
    import flax.linen as nn

    from effjax.layers.dense import Dense, DenseGeneral, Embed

    assert type(make_task(tiny_config("full"))).__name__ == "LanguageModelling"
    assert "Quantized" not in str(type(make_task(tiny_config("full"))).__mro__)
    x = np.random.default_rng(0).normal(size=(2, 5, 16)).astype(np.float32)
    for ours, theirs, inputs in (
        (Dense(7), nn.Dense(7), x),
        (DenseGeneral((2, 8), use_bias=True), nn.DenseGeneral((2, 8), use_bias=True), x),
        (DenseGeneral(6, axis=(-2, -1)), nn.DenseGeneral(6, axis=(-2, -1)), x),
        (Embed(16, 4), nn.Embed(16, 4), tokens() % 16),
    ):
        params = theirs.init(jax.random.key(0), inputs)
        assert jax.tree.all(jax.tree.map(np.array_equal, params, ours.init(jax.random.key(0), inputs)))
        np.testing.assert_array_equal(ours.apply(params, inputs), theirs.apply(params, inputs))


def test_kernels_are_found_again_in_a_function_that_was_traced_before():
    init = make_task(tiny_config("full")).init
    jax.eval_shape(init, jax.random.key(0))
    assert find_kernels(init) == find_kernels(init) != {}


def test_rules_choose_kernels_and_wrong_ones_are_errors():
    kernels = find_kernels(make_task(tiny_config("full", "log_sparse")).init)
    assert not any(part in path for path in kernels for part in ("norm", "bias", "positions"))
    default = select(kernels, (), field="rules")
    assert not any(path.startswith("vocabulary") for path in default) and len(default) == len(kernels) - 2
    some = select(kernels, (("query", False), ("mixing", True)), field="rules")
    assert all("mixing" in path and "query" not in path for path in some)
    for rules, message in (
        ((("norm", True),), "matches none"),
        ((("(", True),), "no regex"),
        ((("query", 8),), "no pair"),
        (((".", False),), "chooses none"),
    ):
        with pytest.raises(UserError, match=message):
            select(kernels, rules, field="rules")


def test_settings_that_do_not_exist_are_errors():
    for settings, message in (
        (dict(quantization__mode="int7"), "one of int8_weight_only"),
        (dict(quantization__mode="int4_weight_only", quantization__group=5), "group=5"),
    ):
        with pytest.raises(UserError, match=message):
            make_task(with_settings(tiny_config("full"), **settings))
    assert set(MODES) == {"int8_weight_only", "int4_weight_only", "int8_dynamic", "int8_static"}
