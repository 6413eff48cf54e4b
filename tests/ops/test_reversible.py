"""Invariants of reversible stacks on pre-norm Transformer blocks with dropout, bucketed attention and unlike layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.ops import reversible
from effjax.ops.reversible import reconstruct_inputs, reversible_stack

B, T, D = 2, 6, 8


def norm(x):
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)


def dropout(x, key):
    return jnp.where(jax.random.bernoulli(key, 0.8, x.shape), x / 0.8, 0).astype(x.dtype)


def attention(dtype, hash_scale=None):
    """Softmax attention; with `hash_scale`, only within equal parity of a quantised projection: a brittle hash."""

    def f(params, x, consts, state, key, saved):
        h = norm(x).astype(dtype)
        q, k, v = (h @ params[name].astype(dtype) for name in "qkv")
        logits = (q @ k.mT).astype(x.dtype) + consts["bias"]
        if hash_scale is not None:
            if saved is None:
                saved = jnp.floor(hash_scale * (x @ state)).astype(jnp.int32) % 2
            logits = jnp.where(saved[:, :, None] == saved[:, None, :], logits, -1e30)
        weights = jax.nn.softmax(jnp.where(consts["order"] >= consts["order"][:, None], logits, -1e30))
        return dropout(weights.astype(dtype), key) @ v, saved

    return f


def feed_forward(dtype):
    def g(params, x, consts, state, key, saved):
        h = jax.nn.gelu(norm(x).astype(dtype) @ params["w1"].astype(dtype))
        return dropout(h / (1 + jnp.abs(h)), key) @ params["w2"].astype(dtype), None

    return g


def make(repeats, period=1, dtype=jnp.float32, hash_scale=None, param_dtype=jnp.float32, shape=(B, T, D), hidden=16):
    """Arguments of a stack: blocks, params, x1, x2 and the keyword arguments."""
    rng = np.random.default_rng(0)
    width = shape[-1]
    draw = lambda *s: jnp.asarray(rng.normal(size=s) / np.sqrt(s[-2]), param_dtype)
    layer = lambda: (
        {name: draw(repeats, width, width) for name in "qkv"},
        {"w1": draw(repeats, width, hidden), "w2": draw(repeats, hidden, width)},
    )
    params = tuple(layer() for _ in range(period))
    states = tuple((draw(repeats, 1, width)[:, 0], None) for _ in range(period))
    length = shape[1]
    consts = {"bias": draw(length, length), "order": jnp.arange(length)}
    x1, x2 = (jnp.asarray(rng.normal(size=shape), param_dtype) for _ in range(2))
    keys = jax.random.split(jax.random.key(1), (repeats, period, 2))
    blocks = [(attention(dtype, hash_scale), feed_forward(dtype)) for _ in range(period)]
    return blocks, params, x1, x2, {"consts": consts, "states": states, "keys": keys}


def gradients(blocks, params, x1, x2, kwargs, mode):
    """Outputs, and gradients of params, x1, x2 and the constant bias."""

    @jax.jit
    def run(params, x1, x2, bias, kwargs):
        def loss(params, x1, x2, bias):
            consts = {**kwargs["consts"], "bias": bias}
            y1, y2, saved = reversible_stack(blocks, params, x1, x2, mode=mode, **{**kwargs, "consts": consts})
            return jnp.sum(jnp.sin(y1) * y2), (y1, y2, saved)

        return jax.grad(loss, (0, 1, 2, 3), has_aux=True)(params, x1, x2, bias)

    grads, outputs = run(params, x1, x2, kwargs["consts"]["bias"], kwargs)
    return outputs, grads


def error(a, b):
    """Greatest relative RMS difference over the leaves."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(jnp.linalg.norm(u - v) / jnp.linalg.norm(v)) for u, v in pairs)


@pytest.mark.parametrize("x64,bound,gradient_bound", [(False, 1e-5, 1e-5), (True, 1e-12, 1e-10)])
def test_gradients_equal_autodiff_with_dropout_and_unlike_layers(x64, bound, gradient_bound):
    with jax.enable_x64(x64):
        dtype = jnp.float64 if x64 else jnp.float32
        arguments = make(3, period=2, dtype=dtype, param_dtype=dtype)
        (y1, y2, _), ours = gradients(*arguments, "reversible")
        (z1, z2, _), expected = gradients(*arguments, "autodiff")
        assert y1.dtype == y2.dtype == dtype
        assert error((y1, y2), (z1, z2)) <= bound
        assert error(ours, expected) <= gradient_bound


def test_another_dropout_key_in_the_backward_pass_is_noticed():
    blocks, params, x1, x2, kwargs = make(3)
    static = (kwargs["states"], kwargs["keys"], "reversible", 14)
    stack, layers, x1, x2 = reversible._prepare(blocks, params, x1, x2, *static)
    consts = kwargs["consts"]
    outputs, residuals = reversible._reversible_fwd(stack, layers, x1, x2, consts)
    cotangents = (jnp.cos(outputs[0]), jnp.cos(outputs[1]), None)
    backward = lambda layers: reversible._reversible_bwd(stack, (*residuals[:3], layers, consts), cotangents)
    right = backward(layers)
    _, pullback = jax.vjp(lambda x1, x2: reversible._forward(stack, layers, x1, x2, consts)[:2], x1, x2)
    expected = pullback(cotangents[:2])
    assert error(right[1:3], expected) < 1e-5
    other_keys = jax.random.split(jax.random.key(2), kwargs["keys"].shape)
    assert error(backward((*layers[:2], other_keys))[1:3], expected) > 1e-2


@pytest.mark.parametrize("mode", ["reversible", "exact"])
def test_brittle_hashes_are_saved_once_and_replayed(mode):
    """At this scale a rounding error flips buckets; recomputed ones would give other gradients."""
    blocks, *rest = make(6, hash_scale=1e5)
    f, g = blocks[0]
    hashed = []

    def counting(params, x, consts, state, key, saved):
        if saved is None:
            jax.debug.callback(lambda: hashed.append(1))
        return f(params, x, consts, state, key, saved)

    (_, _, ours_saved), ours = gradients([(counting, g)], *rest, mode)
    jax.effects_barrier()
    assert len(hashed) == 6
    assert ours_saved[0][0].shape == (6, B, T) and ours_saved[0][0].dtype == jnp.int32
    if mode == "reversible":
        (_, _, saved), expected = gradients(blocks, *rest, "autodiff")
        np.testing.assert_array_equal(ours_saved[0][0], saved[0][0])
        assert error(ours, expected) < 1e-5


def test_scan_equals_unrolled():
    blocks, params, x1, x2, kwargs = make(4, period=2)
    y1, y2, _ = jax.jit(lambda: reversible_stack(blocks, params, x1, x2, **kwargs))()

    @jax.jit
    def unrolled(x1, x2):
        for r in range(4):
            for p, (f, g) in enumerate(blocks):
                (pf, pg), (sf, _) = jax.tree.map(lambda a, r=r: a[r], (params[p], kwargs["states"][p]))
                x1 = x1 + f(pf, x2, kwargs["consts"], sf, kwargs["keys"][r, p, 0], None)[0]
                x2 = x2 + g(pg, x1, kwargs["consts"], None, kwargs["keys"][r, p, 1], None)[0]
        return x1, x2

    assert error((y1, y2), unrolled(x1, x2)) < 1e-6


@pytest.mark.parametrize("mode", reversible.MODES)
def test_branches_of_zero_are_the_identity(mode):
    blocks, params, x1, x2, kwargs = make(3)
    x1, x2 = (jnp.round(x * 2**14) / 2**14 for x in (x1, x2))
    y1, y2, _ = reversible_stack(blocks, jax.tree.map(jnp.zeros_like, params), x1, x2, mode=mode, **kwargs)
    np.testing.assert_array_equal(y1, x1)
    np.testing.assert_array_equal(y2, x2)


def reconstruct(blocks, params, x1, x2, kwargs, mode):
    @jax.jit
    def there(params, x1, x2, kwargs):
        return reversible_stack(blocks, params, x1, x2, mode=mode, **kwargs)

    @jax.jit
    def back(params, y1, y2, saved, kwargs):
        return reconstruct_inputs(blocks, params, y1, y2, saved=saved, mode=mode, **kwargs)

    y1, y2, saved = there(params, x1, x2, kwargs)
    return back(params, y1, y2, saved, kwargs), (y1, y2)


@pytest.mark.parametrize("x64,bound", [(False, 1e-5), (True, 1e-12)])
def test_inversion_of_64_layers_up_to_rounding(x64, bound):
    """Relative to the greatest value of the streams, whose size sets the rounding.

    Float32 measured, greatest error / greatest |y|, and RMS error / RMS of the seven times smaller input: 12 layers
    1.9e-7, 1.1e-6; 24 layers 1.3e-6, 4.1e-6; 48 layers 1.3e-6, 6.8e-6; 64 layers 2.1e-6, 1.3e-5.
    """
    with jax.enable_x64(x64):
        dtype = jnp.float64 if x64 else jnp.float32
        arguments = make(64, dtype=dtype, param_dtype=dtype)
        rebuilt, (y1, y2) = reconstruct(*arguments, "reversible")
        greatest = max(float(jnp.abs(y).max()) for y in (y1, y2))
        assert max(float(jnp.abs(a - b).max()) for a, b in zip(rebuilt, arguments[2:4])) < bound * greatest


@jax.custom_vjp
def record(x, slot):
    """The identity on x, with x itself as the gradient of `slot`: shows which activation the backward pass rebuilt."""
    return x


record.defvjp(lambda x, slot: (x, x), lambda x, ct: (ct, x))


def recording(fn):
    """A branch that saves the stream it saw, and reports the one that its gradient sees as that of its slot."""

    def branch(params, x, consts, state, key, saved):
        y, kept = fn(params["fn"], record(x, params["slot"]), consts, state, key, None if saved is None else saved[1])
        return y, (x if saved is None else saved[0], kept)

    return branch


@pytest.mark.parametrize("dtype,hash_scale", [(jnp.float32, None), (jnp.bfloat16, None), (jnp.bfloat16, 4.0)])
def test_exact_mode_rebuilds_every_activation_of_48_layers_bit_for_bit(dtype, hash_scale):
    blocks, params, x1, x2, kwargs = make(48, dtype=dtype, hash_scale=hash_scale)
    slot = jnp.zeros((48, B, T, D))
    params = tuple(tuple({"fn": half, "slot": slot} for half in layer) for layer in params)
    blocks = [(recording(f), recording(g)) for f, g in blocks]
    (y1, y2, saved), grads = gradients(blocks, params, x1, x2, kwargs, "exact")
    for rebuilt, seen in zip(grads[0][0], saved[0], strict=True):
        assert np.asarray(rebuilt["slot"]).tobytes() == np.asarray(seen[0]).tobytes()

    rounded = [np.asarray(jnp.round(x * 2**14) / 2**14) + 0.0 for x in (x1, x2)]
    for rebuilt, x in zip(reconstruct(blocks, params, x1, x2, kwargs, "exact")[0], rounded, strict=True):
        assert np.asarray(rebuilt).tobytes() == x.tobytes()
    assert min(float(jnp.std(y1 - x1)), float(jnp.std(y2 - x2))) > 1  # the layers did something


def test_rounding_mode_drifts_where_exact_does_not():
    """Negative control of the test above, and its gradients are those of the rounded function up to the grid."""
    arguments = make(48)
    (x1, _), _ = reconstruct(*arguments, "reversible")
    assert np.any(np.asarray(x1) != np.asarray(arguments[2]))
    _, exact = gradients(*arguments, "exact")
    _, expected = gradients(*arguments, "autodiff")
    assert error(exact, expected) < 1e-2


@pytest.mark.parametrize("at", ["input", "update"])
def test_exact_mode_turns_overflow_into_nan(at):
    grow = lambda params, x, consts, state, key, saved: (params * jnp.ones_like(x), None)
    scale, start = (1.0, 2000.0) if at == "input" else (600.0, 0.0)
    params = [(jnp.full((2,), scale), jnp.zeros((2,)))]
    x = jnp.full((1, 1, 2), start)
    run = lambda x, bits: reversible_stack([(grow, grow)], params, x, jnp.zeros_like(x), mode="exact", grid_bits=bits)
    y1, _, _ = run(x, 14)
    assert np.isnan(y1).all()
    y1, _, _ = run(x, 10)
    np.testing.assert_array_equal(y1, start + 2 * scale)


def test_memory_is_flat_in_depth_and_holds_one_copy_of_the_gradients():
    """Bytes of jit(grad) beyond the gradient tree, which XLA puts among the outputs, and beyond the saved buckets."""

    def held(repeats, mode):
        blocks, params, x1, x2, kwargs = make(repeats, hash_scale=1.0, shape=(2, 32, 32), hidden=128)

        def loss(params, x1, x2):
            y1, y2, _ = reversible_stack(blocks, params, x1, x2, mode=mode, **kwargs)
            return jnp.sum(y1 * y2)

        memory = jax.jit(jax.grad(loss, (0, 1, 2))).lower(params, x1, x2).compile().memory_analysis()
        gradient_tree = sum(leaf.nbytes for leaf in jax.tree.leaves((params, x1, x2)))
        saved = repeats * 2 * 32 * 4
        print(f"{mode}, {repeats} repeats: temp {memory.temp_size_in_bytes}, gradients {gradient_tree}, saved {saved}")
        return memory.temp_size_in_bytes + memory.output_size_in_bytes - gradient_tree - saved

    for mode in ("reversible", "exact"):
        shallow, deep = held(4, mode), held(24, mode)
        assert abs(deep / shallow - 1) < 0.02
    assert held(24, "autodiff") > 4 * deep


@pytest.mark.slow
def test_transformations_agree():
    blocks, params, x1, x2, kwargs = make(2)

    def loss(params, x1):
        y1, y2, _ = reversible_stack(blocks, params, x1, x2, **kwargs)
        return jnp.sum(jnp.sin(y1) * y2)

    grad = jax.jit(jax.grad(loss, (0, 1)))
    expected = grad(params, x1)
    assert error(jax.jit(jax.grad(jax.checkpoint(loss), (0, 1)))(params, x1), expected) < 1e-6
    pair = jnp.stack([x1, 2 * x1])
    each = jax.tree.map(lambda *g: jnp.stack(g), grad(params, x1), grad(params, 2 * x1))
    assert error(jax.jit(jax.vmap(jax.grad(loss, (0, 1)), (None, 0)))(params, pair), each) < 1e-5
    looped = lambda params, pair: jax.lax.scan(lambda s, x: (s + loss(params, x), None), 0.0, pair)[0]
    summed = jax.tree.map(lambda g: g.sum(0), each[0])
    assert error(jax.jit(jax.grad(looped))(params, pair), summed) < 1e-5


def test_streams_stay_float32_and_bfloat16_gets_bfloat16_gradients():
    blocks, params, x1, x2, kwargs = make(2, dtype=jnp.bfloat16)
    x1 = x1.astype(jnp.bfloat16)
    (y1, y2, _), grads = gradients(blocks, params, x1, x2, kwargs, "reversible")
    assert y1.dtype == y2.dtype == jnp.float32
    assert grads[1].dtype == jnp.bfloat16 and grads[2].dtype == jnp.float32


def test_bad_arguments_are_named():
    blocks, params, x1, x2, kwargs = make(2)
    with pytest.raises(ValueError, match="mode='exactly'; one of reversible, exact, autodiff"):
        reversible_stack(blocks, params, x1, x2, mode="exactly", **kwargs)
    with pytest.raises(ValueError, match="params has 2 entries"):
        reversible_stack(blocks, params * 2, x1, x2, **kwargs)
