"""Laws 1 to 8 for stacks: residual, reversible and exact, with dropout on where it has a say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.layers import FeedForward
from effjax.models import stack as stack_module
from effjax.models.block import Period
from effjax.models.stack import Stack
from effjax.ops.reversible import reversible_stack
from tests.laws.measure import cast, relative_norm, relative_rms
from tests.laws.stacks import D_MODEL, MODES, VOCABULARY, ids, make_decoder, make_stack, naive_stack

pytestmark = pytest.mark.usefixtures("mesh_of_one")

LENGTH = 13
GRID = 2.0**-14


# The others differ by little: slow tests.
@pytest.fixture(params=[pytest.param(mode, marks=[pytest.mark.slow] * (mode != "reversible")) for mode in MODES])
def mode(request):
    return request.param


def run_stack(stack, params, x, key):
    return stack.apply(params, x, deterministic=False, rngs={"dropout": key})[0]


def test_1_equals_the_plain_loop(mode, monkeypatch):
    """Outputs and every gradient, dropout on, against Python loops in float64."""
    # JAX draws other masks when float64 is on: draw them in float32 always.
    float32_draw = lambda key, p, shape: jax.random.uniform(key, shape, jnp.float32) < jnp.float32(p)
    monkeypatch.setattr(jax.random, "bernoulli", float32_draw)
    make = functools.partial(make_stack, mode, pattern=("local", "lsh"), dropout_rate=0.3)
    stack, x = make(), np.random.default_rng(0).normal(size=(2, LENGTH, D_MODEL))
    params = jax.jit(stack.init)(jax.random.key(0), jnp.zeros((1, 1, D_MODEL)))
    reversible = mode in ("reversible", "exact")
    cotangent = np.random.default_rng(1).normal(size=(2, LENGTH, D_MODEL * (1 + reversible)))
    key = jax.random.key(7)
    # `make_rng` folds the module's path into the key: ask for what the stack will see.
    seen = stack.apply(params, rngs={"dropout": key}, method=lambda module: module.make_rng("dropout"))
    seen = jax.random.key_data(seen)

    def grads(fn, params, x):
        def scalar(params, x):
            y = fn(params, x)
            return jnp.sum(y * jnp.asarray(cotangent, y.dtype)), y

        return jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True))(params, x)

    ours, y = grads(lambda params, x: run_stack(stack, params, x, key), params, jnp.asarray(x, jnp.float32))
    with jax.enable_x64(True):
        naive = lambda params, x: naive_stack(make(dtype=jnp.float64), params, x, jax.random.wrap_key_data(seen))
        theirs, expected = jax.device_get(grads(naive, cast(params, jnp.float64), jnp.asarray(x)))
    if mode == "exact":  # every residual sum is rounded to the grid
        assert np.abs(np.asarray(y) - expected).max() <= 50 * GRID
        np.testing.assert_array_equal(np.asarray(y) / GRID, np.round(np.asarray(y) / GRID))
    assert relative_rms(y, expected) <= (2e-4 if mode == "exact" else 1e-5)
    assert relative_rms(ours, theirs) <= (5e-3 if mode == "exact" else 1e-5)


@pytest.mark.slow
def test_4_any_length(mode):
    """A shorter sequence gives the beginning of the longer one's output."""
    model, params = make_decoder(mode)
    tokens = ids((2, LENGTH))
    whole, _ = jax.jit(model.apply)(params, tokens)
    for length in (1, 6):
        short, _ = jax.jit(model.apply)(params, tokens[:, :length])
        assert relative_rms(short, whole[:, :length]) <= (2e-3 if mode == "exact" else 1e-5)


@pytest.mark.slow
def test_init_with_output_gives_what_the_model_gives(mode):
    model, params = make_decoder(mode, pattern=("full", "local"))
    tokens = ids((2, LENGTH))
    (logits, _), made = jax.jit(model.init_with_output)(jax.random.key(0), tokens)
    jax.tree.map(np.testing.assert_array_equal, made, params)
    assert relative_rms(logits, jax.jit(model.apply)(params, tokens)[0]) <= 1e-6


def test_2_causality(mode):
    model, params = make_decoder(mode, pattern=("full", "local"))
    run = jax.jit(lambda tokens: model.apply(params, tokens)[0])
    tokens = ids((2, LENGTH))
    before = np.asarray(run(tokens))
    for now in (1, 6):
        changed = tokens.copy()
        changed[:, now:] = (changed[:, now:] + 3) % VOCABULARY
        after = np.asarray(run(changed))
        np.testing.assert_array_equal(before[:, :now], after[:, :now])
        assert not np.array_equal(before[:, now:], after[:, now:])


@pytest.mark.slow
def test_3_pieces_equal_one_pass(mode):
    model, params = make_decoder(mode)
    tokens, step = ids((2, LENGTH)), jax.jit(model.apply)
    whole = step(params, tokens)[0]
    for pieces in ([7, 1, 1, 4], [1] * LENGTH):
        state, outputs, start = model.initial_state(2, max_length=LENGTH), [], 0
        for length in pieces:
            logits, state = step(params, tokens[:, start : start + length], state)
            outputs.append(logits)
            start += length
        # On the grid, sums that round differently by one unit in float32 may land a whole grid step apart.
        assert relative_rms(np.concatenate(outputs, axis=1), whole) <= (2e-3 if mode == "exact" else 1e-5), pieces


@pytest.mark.slow
def test_5_unequal_lengths_equal_one_by_one(mode):
    model, params = make_decoder(mode, pattern=("full", "local"))
    tokens, lengths = ids((3, LENGTH)), (LENGTH, 8, 1)
    padding = np.arange(LENGTH)[None] < np.array(lengths)[:, None]
    together = np.asarray(jax.jit(model.apply)(params, tokens, padding_mask=padding)[0])
    for row, length in enumerate(lengths):
        alone = jax.jit(model.apply)(params, tokens[row : row + 1, :length])[0]
        assert relative_rms(together[row, :length], alone[0]) <= (2e-3 if mode == "exact" else 1e-5)


def test_6_packed_documents_equal_separate_ones(mode):
    model, params = make_decoder(mode, pattern=("full", "full"))
    tokens, cut = ids((1, LENGTH)), 8
    segments = (np.arange(LENGTH) >= cut).astype(np.int32)[None]
    positions = np.where(segments, np.arange(LENGTH) - cut, np.arange(LENGTH)).astype(np.int32)
    packed = jax.jit(model.apply)(params, tokens, segment_ids=segments, positions=positions)[0]
    separate = [jax.jit(model.apply)(params, piece)[0] for piece in (tokens[:, :cut], tokens[:, cut:])]
    assert relative_rms(packed, np.concatenate(separate, axis=1)) <= (2e-3 if mode == "exact" else 1e-5)


@pytest.mark.slow
def test_7_large_bfloat16_stays_finite(mode):
    stack = make_stack(mode, dropout_rate=0.1, dtype=jnp.bfloat16)
    params = jax.jit(stack.init)(jax.random.key(0), jnp.zeros((1, 1, D_MODEL)))
    # The exact mode's grid ends at 2^10, short of sums of such inputs.
    x = (1e2 if mode == "exact" else 1e3) * np.random.default_rng(0).uniform(-1, 1, (2, LENGTH, D_MODEL))

    @jax.jit
    def run(params, x):
        y, pullback = jax.vjp(lambda params, x: run_stack(stack, params, x, jax.random.key(1)), params, x)
        return y, pullback(jnp.ones_like(y))

    y, gradients = run(params, jnp.asarray(x, jnp.bfloat16))
    assert y.dtype == jnp.float32
    assert all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves((y, gradients)))


@pytest.mark.slow
def test_8_transformations_agree(mode):
    """All at once, each inside the next: a scan of vmapped gradients of a checkpointed loss."""
    model, params = make_decoder(mode, pattern=("local", "lsh"), dropout_rate=0.2)
    batches = ids((2, 2, 2, LENGTH))

    def loss(params, tokens):
        rngs = {"dropout": jax.random.key(3)}
        return jnp.mean(model.apply(params, tokens, tokens, deterministic=False, rngs=rngs, method="nats")[0])

    alone = jax.jit(jax.value_and_grad(loss))
    expected = [alone(params, tokens) for pair in batches for tokens in pair]
    vmapped = jax.vmap(jax.value_and_grad(jax.checkpoint(loss)), (None, 0))
    scanned = jax.jit(lambda params: jax.lax.scan(lambda _, pair: (None, vmapped(params, pair)), None, batches)[1])
    ours = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), scanned(params))
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected)
    assert relative_rms(ours, expected) <= (2e-3 if mode == "exact" else 1e-5)


def test_dropout_replays_the_forward_mask():
    """Negative control: gradients differ by the draw, so that a backward pass with other masks would be found out."""
    stack = make_stack("reversible", pattern=("local",), dropout_rate=0.5)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, LENGTH, D_MODEL)), jnp.float32)
    params = jax.jit(stack.init)(jax.random.key(0), jnp.zeros((1, 1, D_MODEL)))
    gradient = jax.jit(jax.grad(lambda params, key: jnp.sum(run_stack(stack, params, x, key) ** 2)))
    first, again, other = (gradient(params, jax.random.key(seed)) for seed in (1, 1, 2))
    assert relative_rms(first, again) == 0
    assert relative_rms(first, other) > 0.1


@pytest.mark.slow
@pytest.mark.needs("causal")
def test_every_mixer_works_in_a_reversible_stack(family, monkeypatch):
    """The second piece of a stream: its outputs and gradients, rebuilt backwards, are those of stored activations; the
    state that came in, a memory for instance, is a constant."""
    make = functools.partial(family.layer, d_model=D_MODEL, n_heads=2, head_dim=8)
    stack = Stack(Period((make,), functools.partial(FeedForward, D_MODEL, 2 * D_MODEL)), 3, residual="reversible")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, LENGTH, D_MODEL)), jnp.float32)
    shared = {name: init(jax.random.key(1), shape) for name, (shape, init) in stack.shared_params().items()} or None
    params = jax.jit(stack.init)(jax.random.key(0), jnp.zeros((1, 1, D_MODEL)), shared=shared)

    def run(params, shared, x):
        def loss(params, shared, x):
            _, states = stack.apply(params, x[0], stack.initial_state(2, max_length=2 * LENGTH), shared=shared)
            second, _ = stack.apply(params, x[1], jax.lax.stop_gradient(states), shared=shared)
            return jnp.sum(jnp.sin(second)), second

        (_, y), grads = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(params, shared, x)
        return y, grads

    y, grads = jax.jit(run)(params, shared, x)
    monkeypatch.setattr(
        stack_module, "reversible_stack", lambda *a, mode, **k: reversible_stack(*a, mode="autodiff", **k)
    )
    expected, expected_grads = jax.jit(lambda *arguments: run(*arguments))(params, shared, x)
    assert relative_rms(y, expected) <= 1e-5
    assert relative_norm(grads, expected_grads) <= 1e-4
    assert not np.asarray(grads[2])[0].any()
