"""Convolutions along time against loops over positions and taps in float64, and what their papers promise."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from effjax.ops import convolution_taps
from effjax.ops.convolution import causal_conv, depthwise_conv, dynamic_conv, empty_tail, light_conv
from tests.ops.attention_oracle import assert_close, random_arrays, value_and_grads

BATCH, WIDTH, HEADS, OUT = 2, 6, 3, 4


def weights_shape(kind, size, length):
    return {
        "full": (size, WIDTH, OUT),
        "depthwise": (size, WIDTH),
        "light": (HEADS, size),
        "dynamic": (BATCH, length, HEADS, size),
    }[kind]


OPS = {"full": causal_conv, "depthwise": depthwise_conv, "light": light_conv, "dynamic": dynamic_conv}
kinds = pytest.mark.parametrize("kind", OPS)


def reached(length, size, *, causal=True, padding_mask=None, segment_ids=None):
    """[B, T, S, K]: 1 where tap j of output t meets input s, by loops."""
    taps = np.zeros((BATCH, length, length, size))
    before = size - 1 if causal else (size - 1) // 2
    for b in range(BATCH):
        for t in range(length):
            for j in range(size):
                s = t - before + j
                if not 0 <= s < length or (padding_mask is not None and not padding_mask[b, s]):
                    continue
                taps[b, t, s, j] = segment_ids is None or segment_ids[b, s] == segment_ids[b, t]
    return taps


def loops(kind, x, weights, **rules):
    """The equations over what each tap meets."""
    size = weights.shape[0 if kind in ("full", "depthwise") else -1]
    taps = reached(x.shape[1], size, **rules)
    if kind == "full":
        return jnp.einsum("btsj,bsd,jde->bte", taps, x, weights)
    if kind == "depthwise":
        return jnp.einsum("btsj,bsd,jd->btd", taps, x, weights)
    weights = jnp.repeat(jax.nn.softmax(weights, axis=-1), WIDTH // HEADS, axis=-2)
    return jnp.einsum("btsj,bsd,dj->btd" if kind == "light" else "btsj,bsd,btdj->btd", taps, x, weights)


CASES = {
    "plain": (11, 4, {}),
    "one position": (1, 4, {}),
    "one tap": (5, 1, {}),
    "kernel longer than the text": (3, 7, {}),
    "packed and padded": (11, 4, {"rules": True}),
    "both sides": (11, 5, {"causal": False}),
    "both sides, even, packed": (9, 4, {"causal": False, "rules": True}),
}


@pytest.mark.parametrize(
    ("kind", "name"),  # the full convolution is causal only
    [(kind, name) for kind in OPS for name in CASES if kind != "full" or "causal" not in CASES[name][2]],
)
def test_equals_loops(kind, name, monkeypatch):
    monkeypatch.setattr(convolution_taps, "PRODUCT_BLOCK", 4)
    monkeypatch.setattr(convolution_taps, "BLOCK", 4)
    monkeypatch.setattr(convolution_taps, "UNROLLED", 4)
    length, size, options = CASES[name]
    options = dict(options)
    if options.pop("rules", False):
        options["segment_ids"] = jnp.asarray(np.sort(np.random.default_rng(1).integers(0, 3, (BATCH, length))))
        options["padding_mask"] = jnp.asarray(np.arange(length) < np.array([[length], [length - 4]]))
    forms = ("blocked", "batched") if kind == "depthwise" else (None,)
    with jax.enable_x64(True):
        out = OUT if kind == "full" else WIDTH
        x, weights, g = random_arrays((BATCH, length, WIDTH), weights_shape(kind, size, length), (BATCH, length, out))
        theirs = value_and_grads(partial(loops, kind, **jax.device_get(options)), (x, weights), g)
        for form in forms:
            more = {} if form is None else {"implementation": form}
            ours = partial(OPS[kind], **options, **more)
            assert_close(value_and_grads(lambda *a, ours=ours: ours(*a)[0], (x, weights), g), theirs, 1e-12)


@kinds
def test_pieces_with_a_tail_equal_one_pass(kind):
    length, size = 13, 5
    with jax.enable_x64(True):
        x, weights = random_arrays((BATCH, length, WIDTH), weights_shape(kind, size, length))
        segments = jnp.asarray(np.stack([np.arange(length) // 6, np.arange(length) // 4]))
        padding = jnp.ones((BATCH, length), bool).at[1, 7].set(False)
        x = jnp.where(padding[..., None], x, jnp.nan)
        op = jax.jit(OPS[kind])
        whole, none = op(x, weights, padding_mask=padding, segment_ids=segments)
        assert none is None
        tail, start, pieces = empty_tail(BATCH, size, WIDTH, jnp.float64), 0, []
        for piece in (1, 7, 1, 4):
            cut = slice(start, start + piece)
            y, tail = op(
                x[:, cut],
                weights[:, cut] if kind == "dynamic" else weights,
                tail=tail,
                padding_mask=padding[:, cut],
                segment_ids=segments[:, cut],
            )
            pieces.append(y)
            start += piece
        assert_close([jnp.concatenate(pieces, 1)[padding]], [whole[padding]], 1e-14)
        assert tail.values.shape == (BATCH, size - 1, WIDTH)
        np.testing.assert_array_equal(tail.segment_ids, segments[:, -4:])


def test_one_tap_is_a_linear_projection():
    x, kernel, bias = random_arrays((BATCH, 7, WIDTH), (1, WIDTH, OUT), (OUT,), dtype=np.float32)
    assert_close([causal_conv(x, kernel, bias=bias)[0]], [x @ kernel[0] + bias], 1e-6)


def test_the_mask_of_a_light_kernel_is_one_for_all_positions():
    """A kernel of equal weights over equal inputs shows the sum of what is kept."""
    x = jnp.ones((1, 40, 8))
    drop = partial(light_conv, dropout_rate=0.5, dropout_key=jax.random.key(0))
    y = np.asarray(drop(x, jnp.zeros((8, 5)))[0])[0, 5:]
    assert np.array_equal(y, np.broadcast_to(y[:1], y.shape)) and len(np.unique(y[0])) > 2
    drop = partial(dynamic_conv, dropout_rate=0.5, dropout_key=jax.random.key(0))
    y = np.asarray(drop(x, jnp.zeros((1, 40, 8, 5)))[0])[0, 5:]
    assert not np.array_equal(y, np.broadcast_to(y[:1], y.shape))
    assert abs(y.mean() - 1) < 0.1


@kinds
def test_bf16_stays_finite_and_close(kind):
    arrays = random_arrays((BATCH, 40, WIDTH), weights_shape(kind, 5, 40), dtype=jnp.bfloat16)
    g = random_arrays((BATCH, 40, OUT if kind == "full" else WIDTH), dtype=jnp.bfloat16, seed=3)[0]
    f = lambda x, w: OPS[kind](x, w)[0]
    large = value_and_grads(f, (arrays[0] * 1000, arrays[1]), g)
    assert all(x.dtype == jnp.bfloat16 and np.isfinite(x.astype(np.float32)).all() for x in large)
    ours = value_and_grads(f, arrays, g)
    with jax.enable_x64(True):
        theirs = value_and_grads(f, tuple(x.astype(jnp.float64) for x in arrays), g.astype(jnp.float64))
    for a, b in zip(ours, theirs):
        a, b = np.asarray(a, np.float64), np.asarray(b)
        assert np.sqrt(((a - b) ** 2).mean() / (b**2).mean()) <= 2e-2


@kinds
def test_eight_devices_equal_one(kind):
    mesh = jax.make_mesh((2, 2, 2), ("data", "sequence", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    out = OUT if kind == "full" else WIDTH
    x, weights, g = random_arrays((BATCH, 64, WIDTH), weights_shape(kind, 5, 64), (BATCH, 64, out), dtype=np.float32)
    f = lambda x, w: OPS[kind](x, w)[0]
    split = jax.device_put((x, g), jax.NamedSharding(mesh, P("data", "sequence", "tensor")))
    assert_close(value_and_grads(f, (split[0], weights), split[1]), value_and_grads(f, (x, weights), g), 1e-6)


@kinds
def test_nothing_is_as_large_as_time_by_taps_by_channels(kind):
    length, width, size = 2048, 128, 15
    shapes = {
        "full": (size, width, width),
        "depthwise": (size, width),
        "light": (4, size),
        "dynamic": (1, length, 4, size),
    }
    x, w = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, length, width), shapes[kind]))
    step = lambda x, w, g: jax.vjp(lambda x, w: OPS[kind](x, w)[0], x, w)[1](g)
    temp = jax.jit(step).lower(x, w, x).compile().memory_analysis().temp_size_in_bytes
    assert temp < 0.5 * size * 4 * length * width


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda x: light_conv(x, jnp.zeros((4, 3))), "4 heads, which do not divide the 6 channels"),
        (lambda x: light_conv(x, jnp.zeros((3, 3)), dropout_rate=0.1), "dropout_key is None"),
        (lambda x: light_conv(x, jnp.zeros((3, 3)), dropout_rate=1.0), "dropout_rate is 1.0"),
        (lambda x: depthwise_conv(x, jnp.zeros((3, 6)), causal=False, tail=empty_tail(1, 3, 6)), "causal=False"),
        (lambda x: depthwise_conv(x, jnp.zeros((3, 6)), implementation="cudnn"), "implementation is 'cudnn'"),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(jnp.zeros((1, 8, WIDTH)))
