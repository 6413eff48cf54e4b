from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.ops.favor import favor_attention
from effjax.ops.favor_features import KERNELS, favor_projection
from tests.goldens.load import distance, load
from tests.ops.attention_oracle import assert_close, random_arrays, value_and_grads
from tests.ops.favor_oracle import dense_favor

both = pytest.mark.parametrize("implementation", ["blocked", "batched"])
LENGTH, FEATURES = 37, 12
PADDING = np.ones((2, LENGTH), bool)
PADDING[1, 3:5], PADDING[1, 30:] = False, False
SEGMENTS = np.stack([np.arange(LENGTH) // 9, 5 - np.arange(LENGTH) // 13]).astype(np.int32)


def visible_pairs(length, *, causal, segment_ids=None, padding_mask=None):
    time = np.arange(length)
    mask = time[:, None] >= time[None, :] if causal else np.ones((length, length), bool)
    mask = mask[None, None]
    if segment_ids is not None:
        mask = mask & (segment_ids[:, None, :, None] == segment_ids[:, None, None, :])
    return mask if padding_mask is None else mask & padding_mask[:, None, None, :]


def favor(q, k, v, projection=None, **options):
    options = {name: jnp.asarray(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
    return favor_attention(q, k, v, projection=projection, **options)[0]


def draw(n_features=FEATURES, width=4, seed=3, **options):
    return favor_projection(jax.random.key(seed), n_features, width, **options)


CASES = {
    "causal": dict(causal=True),
    "packed_both_sides_padded": dict(causal=False, segment_ids=SEGMENTS, padding_mask=PADDING),
    "relu": dict(kernel="relu", causal=True),
    "trigonometric": dict(kernel="trigonometric", causal=False),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_linear_order_equals_all_pairs(case):
    """Invariants 4 and 5: values and gradients, that of the projection among them, to float64's last digits."""
    with jax.enable_x64(True):
        *arrays, projection, g = random_arrays(*[(2, LENGTH, 2, 4)] * 3, (FEATURES, 4), (2, LENGTH, 2, 4))
        rules = dict(case)
        kernel = rules.pop("kernel", "softmax")
        if kernel == "trigonometric":  # weights of either sign: keep their sums away from 0
            arrays[:2] = 0.3 * arrays[0], 0.3 * arrays[1]
        ours = partial(favor, chunk_size=8, **case)
        theirs = lambda q, k, v, w: dense_favor(q, k, v, w, visible_pairs(LENGTH, **rules), kernel=kernel)
        g = g * PADDING[:, :, None, None]
        arrays.append(projection)
        assert_close(value_and_grads(ours, arrays, g), value_and_grads(theirs, arrays, g), 1e-12)


def test_other_kernels():
    with jax.enable_x64(True):
        q, k, v, projection = random_arrays(*[(1, LENGTH, 2, 4)] * 3, (2, FEATURES, 4))  # a projection for each head
        kernels = ("hyperbolic", "elu", "abs", "sigmoid")
        run = jax.jit(lambda f: [f(q, k, v, projection, kernel=kernel) for kernel in kernels], static_argnums=0)
        visible = visible_pairs(LENGTH, causal=True)
        expected = run(lambda *args, **kwargs: dense_favor(*args, visible, **kwargs))
        assert_close(run(partial(favor, causal=True, implementation="batched")), expected, 1e-12)


def test_no_projection_is_the_kernel_of_the_vectors_themselves():
    """Invariant 10: a direct formula."""
    with jax.enable_x64(True):
        q, k, v = random_arrays(*[(1, 20, 1, 4)] * 3)
        weights = np.tril((np.maximum(q[0, :, 0], 0) + 0.1) @ (np.maximum(k[0, :, 0], 0) + 0.1).T)
        expected = weights @ v[0, :, 0] / weights.sum(-1, keepdims=True)
        out = favor(q, k, v, kernel="relu", scale=1.0, epsilon=0.1, causal=True, chunk_size=8)
        assert_close([out[0, :, 0]], [expected], 1e-12)


def test_a_constant_in_the_exponents_cancels():
    """Invariant 6: with epsilon 0 the stabiliser, whichever it is, is not to be seen in the result."""
    with jax.enable_x64(True):
        q, k, v = random_arrays(*[(1, LENGTH, 2, 4)] * 3)
        f = partial(favor, projection=draw(), causal=True, epsilon=0.0, chunk_size=8)
        assert_close([jax.jit(partial(f, stabilizer="global"))(q, k, v)], [jax.jit(f)(q, k, v)], 1e-12)


def test_any_chunk_gives_the_same():
    """Invariant 7, first half."""
    arrays = random_arrays(*[(1, LENGTH, 2, 4)] * 3, dtype=np.float32)
    f = partial(favor, projection=draw(), causal=True, implementation="batched")
    outs = jax.jit(lambda *arrays: [f(*arrays, chunk_size=size) for size in (8, 1, 3, 64)])(*arrays)
    assert_close(outs[1:], outs[:1] * 3, 1e-5)


@pytest.mark.slow
def test_a_stream_equals_one_pass():
    """Invariant 7, second half: across documents and padding, with the gradients that pass through the state."""
    with jax.enable_x64(True):
        *arrays, g = random_arrays(*[(2, LENGTH, 2, 4)] * 4)
        rules = dict(segment_ids=jnp.asarray(SEGMENTS), padding_mask=jnp.asarray(PADDING))
        f = partial(favor_attention, projection=draw().astype(jnp.float64), causal=True, chunk_size=8)

        def in_pieces(*arrays):
            state, outs = None, []
            for start, stop in ((0, 4), (4, 5), (5, 24), (24, 25), (25, LENGTH)):
                cut = {name: rule[:, start:stop] for name, rule in rules.items()}
                out, state = f(*(x[:, start:stop] for x in arrays), state=state, **cut)
                outs.append(out)
            return jnp.concatenate(outs, axis=1)

        at_once = lambda *arrays: f(*arrays, **rules)[0]
        assert_close(value_and_grads(in_pieces, arrays, g), value_and_grads(at_once, arrays, g), 1e-12)


def test_keys_to_come_that_outweigh_all_change_nothing_bit_for_bit():
    """Invariant 8."""
    q, k, v = random_arrays(*[(1, LENGTH, 2, 4)] * 3, dtype=np.float32)
    f = jax.jit(partial(favor, projection=draw(), causal=True, chunk_size=8))
    for cut in (1, 11, 24):
        for factor in (0, -5, 100):
            changed = [x.at[:, cut:].mul(factor) for x in (q, k, v)]
            assert np.array_equal(f(q, k, v)[:, :cut], f(*changed)[:, :cut])


def test_a_maximum_over_all_keys_leaks():
    """The contrast: the original stabiliser, through epsilon."""
    q, k, v = random_arrays(*[(1, LENGTH, 2, 4)] * 3, dtype=np.float32)
    f = jax.jit(partial(favor, projection=draw(), causal=True, stabilizer="global", epsilon=1e-4))
    assert np.abs(f(q, k, v) - f(q, k.at[:, -1].mul(5), v))[:, :-1].max() > 1e-4


def test_rows_of_weights_sum_to_1():
    """Invariant 9: values of 1 come out as 1; positive features stay within the values, trigonometric ones do not."""
    q, k, v = random_arrays(*[(1, LENGTH, 2, 4)] * 3, dtype=np.float32)
    v = jnp.concatenate([v, jnp.ones_like(v)], axis=-1)
    f = partial(favor, 2 * q, 2 * k, v, draw(), implementation="batched")
    kernels = ("softmax", "hyperbolic", "trigonometric")
    outs = jax.jit(lambda: [f(kernel=kernel, causal=causal) for kernel in kernels for causal in (True, False)])()
    for kernel, out in zip(np.repeat(kernels, 2), outs):
        out, ones = jnp.split(out, 2, axis=-1)
        assert_close([ones], [jnp.ones_like(ones)], 1e-4)
        low, high = v[..., :4].min(1), v[..., :4].max(1)
        assert bool(((out >= low - 1e-4) & (out <= high + 1e-4)).all()) == (kernel != "trigonometric")


GOLDENS = {
    "softmax": dict(kernel="softmax", epsilon=1e-4, stabilizer="global"),
    "softmax_causal": dict(kernel="softmax", epsilon=1e-4, stabilizer="global", causal=True, denominator_epsilon=1e-6),
    "relu": dict(kernel="relu"),
    "relu_causal": dict(kernel="relu", causal=True, denominator_epsilon=1e-6),
}


LIGHT = ("softmax_causal", "relu")


@pytest.mark.parametrize("variant", [v if v in LIGHT else pytest.param(v, marks=pytest.mark.slow) for v in GOLDENS])
def test_the_original_implementation(variant):
    """performer-pytorch's FastAttention: outputs and gradients."""
    golden = load("lucid_performer_attention")
    arrays = [jnp.asarray(golden["inputs"][name]).swapaxes(1, 2) for name in ("q", "k", "v")]
    f = partial(favor, projection=jnp.asarray(golden["inputs"]["projection"]), chunk_size=16, **GOLDENS[variant])
    cotangent = jnp.asarray(golden["inputs"]["cotangent"][variant]).swapaxes(1, 2)
    ours = [np.swapaxes(x, 1, 2) for x in value_and_grads(f, arrays, cotangent)]
    theirs = [golden["outputs"][variant]["out"], *(golden["grads"][variant][name] for name in ("q", "k", "v"))]
    for a, b in zip(ours, theirs):
        assert distance(a, b)[1] <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kernel", KERNELS)
def test_large_bfloat16_stays_finite(kernel, causal):
    *arrays, g = random_arrays(*[(2, LENGTH, 2, 4)] * 4, dtype=jnp.bfloat16)
    f = partial(favor, projection=draw(), kernel=kernel, causal=causal, chunk_size=8)
    large = value_and_grads(f, tuple(1000 * jnp.clip(x, -1, 1) for x in arrays), g)
    assert all(x.dtype == jnp.bfloat16 and np.isfinite(x.astype(np.float32)).all() for x in large)


@pytest.mark.slow
def test_large_float32_without_epsilon_stays_finite():
    *arrays, g = random_arrays(*[(2, LENGTH, 2, 4)] * 4, dtype=np.float32)
    f = partial(favor, projection=draw(), epsilon=0.0, causal=True, chunk_size=8)
    for factor in (10, 100, 1000):
        assert all(np.isfinite(x).all() for x in value_and_grads(f, tuple(factor * x for x in arrays), g))


@pytest.mark.slow
@both
def test_no_array_of_all_prefixes(implementation):
    """Temporaries of a causal pass and its gradient: far fewer than one T x M x H tensor, and linear in the length."""
    projection = draw(256, 16)

    def temporaries(length):
        def step(q, k, v, g):
            f = partial(favor, projection=projection, causal=True, implementation=implementation)
            return jax.vjp(f, q, k, v)[1](g)

        x = jax.ShapeDtypeStruct((1, length, 2, 16), jnp.float32)
        return jax.jit(step).lower(x, x, x, x).compile().memory_analysis().temp_size_in_bytes

    short, long = temporaries(2048), temporaries(4096)
    assert long <= 2.2 * short and long < 4 * 2 * 4096 * 256 * 16 / 8


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(kernel="cosine"), "kernel='cosine'"),
        (dict(projection=None), "projection=None with kernel='softmax'"),
        (dict(stabilizer="none"), "stabilizer='none'"),
        (dict(chunk_size=0), "chunk_size=0"),
        (dict(implementation="pallas"), "implementation is 'pallas'"),
    ],
)
def test_mistakes_are_named(options, words):
    x = jnp.zeros((1, 8, 1, 4))
    with pytest.raises(ValueError, match=words):
        favor_attention(x, x, x, **{"projection": draw(), **options})
    with pytest.raises(ValueError, match="a stream needs causal=True"):
        state = favor_attention(x, x, x, projection=draw(), causal=True)[1]
        favor_attention(x, x, x, projection=draw(), state=state)
    with pytest.raises(ValueError, match="8 queries and 4 keys"):
        favor_attention(x, x[:, :4], x[:, :4], projection=draw(), causal=True)
