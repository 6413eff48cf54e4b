"""Local attention: against the originals, against the dense definition in float64, and its memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from effjax.ops import local_blocked
from effjax.ops.local import local_attention
from effjax.ops.positions import rotary
from tests.goldens.load import distance, load
from tests.ops.attention_oracle import assert_close, dense_attention, random_arrays, value_and_grads

both = pytest.mark.parametrize("implementation", ["blocked", "batched"])

LUCID = {
    "both_sides": {"causal": False, "look_ahead": 1},
    "both_sides_exact": {"causal": False, "look_ahead": 1, "window": 8},
    "causal": {},
    "causal_exact": {"window": 8},
    "causal_shared_qk": {"unit_keys": True},
    "rotary": {},
}


@both
@pytest.mark.parametrize("variant", LUCID)
def test_equals_lucidrains(variant, implementation):
    oracle = load("lucid_local_attention")
    inputs = oracle["inputs"]
    q, k, v, g = (x.swapaxes(1, 2) for x in (*(inputs[n] for n in "qkv"), inputs["cotangent"][variant]))
    attend = partial(local_attention, chunk_size=8, **LUCID[variant], implementation=implementation)

    def f(q, k, v):
        if variant == "rotary":  # theirs count from the window's first key, ours from the start: distances are the same
            q, k = (rotary(x, jnp.tile(jnp.arange(48), (2, 1))) for x in (q, k))
        return attend(q, k, v)

    out, *grads = value_and_grads(f, (q, k, v), g)
    assert distance(out.swapaxes(1, 2), oracle["outputs"][variant]["out"])[1] <= 1e-5
    for name, grad in zip("qkv", grads):
        assert distance(grad.swapaxes(1, 2), oracle["grads"][variant][name])[1] <= 1e-5


@both
@pytest.mark.parametrize("variant, options", [("causal", {}), ("both_sides", {"causal": False, "look_ahead": 1})])
def test_equals_transformers(variant, options, implementation):
    oracle = load("hf_reformer_local_attention")
    names = ("query.weight", "key.weight", "value.weight")

    def layer(x, *weights):
        q, k, v = (jnp.reshape(x @ w.T, (*x.shape[:2], 2, 16)) for w in weights)
        options_here = {"chunk_size": 8, "circular": True, **options}
        return local_attention(q, k, v, **options_here, implementation=implementation).reshape(x.shape)

    arrays = (oracle["inputs"]["x"], *(oracle["weights"][n] for n in names))
    out, grad_x, *grads = value_and_grads(layer, arrays, oracle["inputs"]["cotangent"][variant])
    assert distance(out, oracle["outputs"][variant]["out"])[1] <= 1e-5
    assert distance(grad_x, oracle["grads"][variant]["x"])[1] <= 1e-5
    for name, grad in zip(names, grads):
        assert distance(grad, oracle["weight_grads"][variant][name])[1] <= 1e-5


def visible_pairs(length, *, chunk_size, look_back=1, look_ahead=0, causal=True, window=None, circular=False):
    i, j = np.ogrid[:length, :length]
    chunks = -(-length // chunk_size)
    visible = np.zeros((length, length), bool)
    for offset in range(-look_back, look_ahead + 1):
        chunk = i // chunk_size + offset
        visible |= j // chunk_size == (chunk % chunks if circular else chunk)
    if causal:
        visible &= j <= i
    if window is not None:
        visible &= np.abs(i - j) <= window
    return visible


CASES = {
    "causal": (101, {"chunk_size": 8}),
    "no neighbour": (40, {"chunk_size": 8, "look_back": 0}),
    "look back further than there is": (20, {"chunk_size": 8, "look_back": 5}),
    "both sides": (61, {"chunk_size": 8, "look_ahead": 2, "causal": False}),
    "ring": (61, {"chunk_size": 8, "look_back": 2, "look_ahead": 1, "causal": False, "circular": True}),
    "ring of two chunks": (13, {"chunk_size": 8, "look_ahead": 1, "causal": False, "circular": True}),
    "window": (90, {"chunk_size": 16, "look_back": 3, "look_ahead": 3, "causal": False, "window": 20}),
}


@both
@pytest.mark.parametrize("name", CASES)
def test_equals_dense_float64(name, implementation, monkeypatch):
    monkeypatch.setattr(local_blocked, "QUERIES_PER_PIECE", 32)  # several pieces, the last one ragged
    length, options = CASES[name]
    with jax.enable_x64(True):
        *arrays, g = random_arrays(*[(2, length, 3, 4)] * 4)
        segments = np.sort(np.random.default_rng(1).integers(0, 3, (2, length)))
        padding = np.arange(length) < np.array([[length], [length // 3]])
        rules = {"segment_ids": jnp.asarray(segments), "padding_mask": jnp.asarray(padding)}
        visible = visible_pairs(length, **options) & (segments[:, :, None] == segments[:, None]) & padding[:, None]
        ours = partial(local_attention, **options, **rules, implementation=implementation)
        theirs = partial(dense_attention, visible=visible[:, None])
        assert_close(value_and_grads(ours, arrays, g), value_and_grads(theirs, arrays, g), 1e-12)


@both
def test_bf16_stays_finite_and_close(implementation):
    arrays = random_arrays(*[(1, 100, 2, 16)] * 4, dtype=jnp.bfloat16)
    f = partial(local_attention, chunk_size=16, implementation=implementation)
    large = value_and_grads(f, tuple(x * 1000 for x in arrays[:3]), arrays[3])
    assert all(x.dtype == jnp.bfloat16 and np.isfinite(x.astype(np.float32)).all() for x in large)
    ours = value_and_grads(f, arrays[:3], arrays[3])
    with jax.enable_x64(True):
        *exact, g = (x.astype(jnp.float64) for x in arrays)
        theirs = value_and_grads(partial(dense_attention, visible=visible_pairs(100, chunk_size=16)), exact, g)
    for a, b in zip(ours, theirs):
        a, b = np.asarray(a, np.float64), np.asarray(b)
        assert np.sqrt(((a - b) ** 2).mean() / (b**2).mean()) <= 2e-2


@both
def test_dropout_is_one_mask_for_all_chunks(implementation):
    """Values that are one-hot in the key's place in its chunk read the dropped weights back."""
    rate, chunk, chunks = 0.25, 16, 6
    q = jnp.zeros((2, chunk * chunks, 1, 2 * chunk))
    place = jnp.arange(chunk * chunks) % (2 * chunk)
    v = jnp.broadcast_to(jax.nn.one_hot(place, 2 * chunk)[None, :, None], q.shape)
    f = partial(local_attention, chunk_size=chunk, causal=False, dropout_rate=rate, implementation=implementation)
    weights = np.asarray(f(q, q, v, dropout_key=jax.random.key(0))).reshape(2, chunks, chunk, 2, chunk) * 2 * chunk
    weights[:, 0] /= 2  # the first chunk has no neighbour, so its weights are twice as large
    weights[:, ::2] = weights[:, ::2, :, ::-1]  # own chunk last
    assert np.array_equal(weights[:, 1:], np.broadcast_to(weights[:1, 1:2], weights[:, 1:].shape))
    kept = weights[0, 1]
    assert set(np.round(np.unique(kept), 4)) == {0, np.float32(np.round(1 / (1 - rate), 4))}
    assert abs(kept.mean() - 1) < 5 * np.sqrt(rate / (1 - rate) / kept.size)


@both
def test_dropout_of_both_passes_agrees(implementation):
    with jax.enable_x64(True):
        q, k, v, g, *steps = random_arrays(*[(2, 50, 2, 4)] * 7)
        drop = partial(local_attention, chunk_size=8, dropout_rate=0.3, dropout_key=jax.random.key(1))
        f = jax.jit(lambda *arrays: jnp.vdot(drop(*arrays, implementation=implementation), g))
        slope = sum(jnp.vdot(grad, step) for grad, step in zip(jax.grad(f, (0, 1, 2))(q, k, v), steps))
        ahead, behind = (f(*(x + sign * 1e-5 * step for x, step in zip((q, k, v), steps))) for sign in (1, -1))
        assert abs((ahead - behind) / 2e-5 - slope) < 1e-6 * abs(slope)


@pytest.mark.parametrize("implementation", ["batched", None])
def test_eight_devices_equal_one(implementation):
    mesh = jax.make_mesh((2, 2, 2), ("data", "sequence", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    arrays = random_arrays(*[(2, 64, 2, 8)] * 4, dtype=np.float32)
    f = partial(local_attention, chunk_size=8, implementation=implementation)
    split = jax.device_put(arrays, jax.NamedSharding(mesh, P("data", "sequence", "tensor")))
    assert_close(value_and_grads(f, split[:3], split[3]), value_and_grads(f, arrays[:3], arrays[3]), 1e-6)


@both
def test_memory_is_linear(implementation):
    def temporary_bytes(length):
        def step(q, k, v, g):
            return jax.vjp(partial(local_attention, chunk_size=128, implementation=implementation), q, k, v)[1](g)

        x = jax.ShapeDtypeStruct((1, length, 2, 32), jnp.float32)
        return jax.jit(step).lower(x, x, x, x).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(8192) <= 2.2**2 * temporary_bytes(2048)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"look_back": -1}, "look_back is -1"),
        ({"window": 4, "circular": True}, "window is 4 and circular"),
        ({"dropout_rate": 0.1}, "dropout_key is None"),
        ({"implementation": "splash"}, "implementation is 'splash'"),
    ],
)
def test_mistakes_are_named(options, words):
    q = jnp.zeros((1, 16, 1, 4))
    with pytest.raises(ValueError, match=words):
        local_attention(q, q, q, **{"chunk_size": 8, **options})
