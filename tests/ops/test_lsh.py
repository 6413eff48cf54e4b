"""LSH attention against its definition and its invariants."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.ops.hashing import hash_vectors, lsh_rotations
from effjax.ops.lsh import lsh_attention
from tests.ops.lsh_oracle import count_meetings, dense, pairs_open

B, T, N, H, C = 2, 24, 2, 8, 4


def draw(length=T, rounds=2, n_buckets=6, batch=B, seed=0, dtype=np.float32):
    """Returns qk, v, a cotangent and buckets that have nothing to do with them."""
    rng = np.random.default_rng(seed)
    qk, v, cotangent = (rng.normal(size=(batch, length, N, H)).astype(dtype) for _ in range(3))
    return qk, v, cotangent, rng.integers(0, n_buckets, (batch, length, N, rounds), dtype=np.int32)


def run(qk, v, cotangent, buckets, *, padding_mask=None, segment_ids=None, **options):
    """Returns the output and its gradients with respect to qk and v."""
    arrays = dict(buckets=buckets, padding_mask=padding_mask, segment_ids=segment_ids)
    return [np.asarray(x) for x in _run(qk, v, cotangent, arrays, tuple(options.items()))]


@partial(jax.jit, static_argnums=4)
def _run(qk, v, cotangent, arrays, options):
    out, pull = jax.vjp(lambda qk, v: lsh_attention(qk, v, **arrays, **dict(options))[0], qk, v)
    return out, *pull(cotangent)


def assert_close(ours, theirs, bound):
    """Relative root mean square, for the output and each gradient."""
    for a, b in zip(ours, theirs):
        a = np.asarray(a, np.float64)
        assert np.sqrt(np.square(a - b).mean()) <= bound * np.sqrt(np.square(b).mean())


OPTIONS = [
    dict(),
    dict(causal=False),
    dict(look_back="within_round", scaling="unit_keys_scaled"),
    dict(look_back="none", causal=False),
    dict(correct_duplicates=True),
    dict(correct_duplicates=True, causal=False, look_back="within_round"),
    dict(correct_duplicates=True, causal=False, look_back="none"),
    dict(same_bucket=True, causal=False),
    dict(same_bucket=True, correct_duplicates=True),
]


@pytest.mark.parametrize(
    "implementation, options",
    [("blocked", options) for options in OPTIONS] + [("batched", options) for options in OPTIONS[::3]],
    ids=str,
)
def test_equals_the_dense_definition(implementation, options):
    qk, v, cotangent, buckets = draw(rounds=3)
    pattern = {name: options[name] for name in ("look_back", "same_bucket") if name in options}
    weights = count_meetings(buckets, C, **pattern) * pairs_open(T, causal=options.get("causal", True))
    if options.get("correct_duplicates"):
        weights = weights > 0  # one softmax over the union of what the rounds see
    theirs = dense(qk, v, weights, scaling=options.get("scaling", "unit_keys"), cotangent=cotangent)
    ours = run(qk, v, cotangent, buckets, chunk_size=C, n_buckets=6, implementation=implementation, **options)
    assert_close(ours, theirs, 1e-5)


@pytest.mark.parametrize("implementation, causal", [("blocked", True), ("batched", False)])
def test_padding_and_segments_equal_the_dense_definition(implementation, causal):
    qk, v, cotangent, buckets = draw()
    padding_mask = np.arange(T) < np.array([[T - 5], [T - 10]])
    segment_ids = np.sort(np.random.default_rng(1).integers(0, 3, (B, T)), axis=1)
    rules = dict(padding_mask=padding_mask, segment_ids=segment_ids)
    weights = count_meetings(np.where(padding_mask[:, :, None, None], buckets, 99), C)
    theirs = dense(qk, v, weights * pairs_open(T, causal=causal, **rules), cotangent=cotangent)
    ours = run(qk, v, cotangent, buckets, chunk_size=C, causal=causal, implementation=implementation, **rules)
    assert_close(ours, theirs, 1e-5)


def test_bfloat16_equals_the_dense_definition():
    qk, v, cotangent, buckets = draw(dtype=jnp.bfloat16)
    weights = count_meetings(buckets, C) * pairs_open(T, causal=True)
    ours = run(qk, v, cotangent, buckets, chunk_size=C)
    assert all(x.dtype == jnp.bfloat16 for x in ours)
    assert_close(ours, dense(qk, v, weights, cotangent=cotangent), 2e-2)


def test_float64_stays_float64():
    with jax.enable_x64(True):
        qk, v, cotangent, buckets = draw(dtype=np.float64)
        ours = run(qk, v, cotangent, buckets, chunk_size=C)
        assert all(x.dtype == np.float64 for x in ours)
        weights = count_meetings(buckets, C) * pairs_open(T, causal=True)
        assert_close(ours, dense(qk, v, weights, cotangent=cotangent), 1e-13)


@pytest.mark.parametrize("rounds, look_back", [(1, "none"), (1, "circular"), (3, "circular")])
def test_one_chunk_is_dense_shared_qk_attention(rounds, look_back):
    """Invariants 1 and 2: whatever the buckets, every round sees everything, and rounds that agree change nothing."""
    qk, v, cotangent, buckets = draw(rounds=rounds)
    theirs = dense(qk, v, pairs_open(T, causal=True).astype(int), cotangent=cotangent)
    ours = run(qk, v, cotangent, buckets, chunk_size=T, look_back=look_back)
    assert np.abs(ours[0] - theirs[0]).max() <= 1e-5
    assert_close(ours, theirs, 1e-5)


@pytest.mark.parametrize("same_bucket, correct", [(False, False), (True, True), (False, "lucid")])
def test_a_position_with_only_itself_gives_its_own_value(same_bucket, correct):
    """Invariant 4, and no rounding of -1e5: the weight is 1 exactly, the gradient to qk 0 exactly."""
    qk, v, cotangent, buckets = draw()
    cotangent[:, 1:] = 0
    out, grad_qk, grad_v = run(
        qk, v, cotangent, buckets, chunk_size=C, same_bucket=same_bucket, correct_duplicates=correct
    )
    np.testing.assert_allclose(out[:, 0], v[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(grad_qk, 0)
    np.testing.assert_allclose(grad_v[:, 0], cotangent[:, 0], rtol=1e-6)


def test_a_row_that_may_see_nothing_gives_zero():
    qk, v, cotangent, buckets = draw()
    padding_mask = np.zeros((B, T), bool)
    for x in run(qk, v, cotangent, buckets, chunk_size=C, padding_mask=padding_mask):
        np.testing.assert_array_equal(x, 0)


@pytest.mark.parametrize("implementation, look_back", [("blocked", "circular"), ("batched", "within_round")])
def test_the_future_changes_no_past_output(implementation, look_back):
    """Invariant 5, bit for bit, with frozen buckets."""
    qk, v, cotangent, buckets = draw(length=22)
    options = dict(chunk_size=C, look_back=look_back, implementation=implementation)
    for now in (1, 9, 21):
        changed_qk, changed_v = qk.copy(), v.copy()
        changed_qk[:, now:] *= -3
        changed_v[:, now:] += 7
        past = np.where(np.arange(22) < now, 1, 0)[:, None, None] * cotangent
        out, grad_qk, grad_v = run(qk, v, past, buckets, **options)
        np.testing.assert_array_equal(out[:, :now], run(changed_qk, changed_v, past, buckets, **options)[0][:, :now])
        np.testing.assert_array_equal(grad_qk[:, now:], 0)
        np.testing.assert_array_equal(grad_v[:, now:], 0)


@pytest.mark.parametrize(
    "length, look_back", [(1, "circular"), (C - 1, "none"), (C, "circular"), (C + 1, "within_round"), (23, "circular")]
)
def test_any_length(length, look_back):
    """Law 4: the places that fill the last chunk are seen by nobody."""
    qk, v, cotangent, buckets = draw(length=length)
    chunk_size = min(C, length)
    full = -(-length // chunk_size) * chunk_size
    tail = ((0, 0), (0, full - length), (0, 0), (0, 0))
    weights = count_meetings(np.pad(buckets, tail, constant_values=99), chunk_size, look_back=look_back)
    theirs = dense(qk, v, weights[:, :, :length, :length], cotangent=cotangent)
    assert_close(run(qk, v, cotangent, buckets, chunk_size=C, causal=False, look_back=look_back), theirs, 1e-5)


def test_unequal_lengths_equal_one_by_one():
    """Law 5 with frozen buckets: padding stands behind everything in every round."""
    qk, v, cotangent, buckets = draw()
    lengths = [T - 3, 9]
    padding_mask = np.arange(T) < np.array(lengths)[:, None]
    cotangent *= padding_mask[:, :, None, None]
    options = dict(chunk_size=C, causal=False, look_back="within_round", n_buckets=6)
    together = run(qk, v, cotangent, buckets, padding_mask=padding_mask, **options)
    for b, length in enumerate(lengths):
        alone = run(*(x[b : b + 1, :length] for x in (qk, v, cotangent, buckets)), **options)
        for ours, theirs in zip(together, alone):
            np.testing.assert_allclose(ours[b, :length], theirs[0], atol=1e-5)
            np.testing.assert_array_equal(ours[b, length:] * (ours is not together[0]), 0)


def test_documents_do_not_see_each_other():
    """Law 6: changing one document changes nothing in the other, bit for bit."""
    qk, v, cotangent, buckets = draw()
    segment_ids = np.broadcast_to(np.arange(T) // 11, (B, T))
    first = segment_ids[0] == 0
    other_qk, other_v = qk.copy(), v.copy()
    other_qk[:, ~first], other_v[:, ~first] = 5, -5
    cotangent[:, ~first] = 0
    options = dict(chunk_size=C, causal=False, segment_ids=segment_ids)
    ours, theirs = run(qk, v, cotangent, buckets, **options), run(other_qk, other_v, cotangent, buckets, **options)
    for a, b in zip(ours, theirs):
        np.testing.assert_array_equal(a[:, first], b[:, first])
    np.testing.assert_array_equal(ours[1][:, ~first], 0)


@pytest.mark.parametrize("scale", [1e3, 1e-3, 0.0])
def test_bfloat16_stays_finite(scale):
    """Law 7."""
    qk, v, cotangent, buckets = draw()
    large = [(scale * x).astype(jnp.bfloat16) for x in (qk, v)]
    for options in (dict(), dict(correct_duplicates=True, same_bucket=True)):
        for x in run(*large, cotangent.astype(jnp.bfloat16), buckets, chunk_size=C, **options):
            assert np.isfinite(x.astype(np.float32)).all()


def test_hashes_replay():
    """Rotations, and the buckets they give, lead to the same bits; padding has the bucket behind all others."""
    qk, v, _, _ = map(jnp.asarray, draw())
    rotations = lsh_rotations(jax.random.key(0), n_heads=N, head_dim=H, n_hashes=3, n_buckets=(4, 2))
    padding_mask = jnp.arange(T) < jnp.array([[T], [T - 5]])
    attend = jax.jit(partial(lsh_attention, n_buckets=(4, 2), chunk_size=C))
    out, buckets = attend(qk, v, rotations=rotations, padding_mask=padding_mask)
    np.testing.assert_array_equal(buckets[0], hash_vectors(qk, rotations, n_buckets=(4, 2))[0])
    np.testing.assert_array_equal(buckets[1, -5:], 8)
    again, same = attend(qk, v, buckets=buckets, padding_mask=padding_mask)
    np.testing.assert_array_equal(out, again)
    np.testing.assert_array_equal(buckets, same)


def test_more_rounds_come_closer_to_full_attention():
    """Invariant 10."""
    rng = np.random.default_rng(0)
    qk, v = (rng.normal(size=(4, 64, N, H)).astype(np.float32) for _ in range(2))
    full = dense(qk * 2, v, pairs_open(64, causal=False).astype(int))
    errors = []
    for rounds in (1, 8):
        rotations = lsh_rotations(jax.random.key(1), n_heads=N, head_dim=H, n_hashes=rounds, n_buckets=8)
        attend = partial(lsh_attention, chunk_size=8, causal=False, correct_duplicates=True)
        out, _ = jax.jit(attend)(qk * 2, v, rotations=rotations)
        errors.append(np.square(out - full).mean())
    assert errors[0] > 3 * errors[1]


def test_dropout():
    """One mask [chunk, 2 chunk] serves every chunk, round, head and example; the gradient is that of the output."""
    _, _, _, buckets = draw()
    with jax.enable_x64(True):
        qk, v, cotangent, _ = draw(dtype=np.float64)
        kept = dict(chunk_size=C, dropout_rate=0.5, dropout_key=jax.random.key(3))
        loss = jax.jit(lambda qk, v: (lsh_attention(qk, v, buckets=jnp.asarray(buckets), **kept)[0] * cotangent).sum())
        grads = jax.grad(loss, argnums=(0, 1))(qk, v)
        for axis, grad in enumerate(grads):
            step = np.random.default_rng(axis).normal(size=qk.shape)
            there, back = ([x + eps * step * (i == axis) for i, x in enumerate((qk, v))] for eps in (1e-5, -1e-5))
            np.testing.assert_allclose((loss(*there) - loss(*back)) / 2e-5, (grad * step).sum(), rtol=1e-6)
    # Two examples and heads that are alike stay alike.
    qk, v, buckets = (np.broadcast_to(x[:1, :, :1], x.shape) for x in (qk, v, buckets))
    out, _ = jax.jit(partial(lsh_attention, **kept))(qk.astype(np.float32), v.astype(np.float32), buckets=buckets)
    np.testing.assert_allclose(out, np.broadcast_to(out[:1, :, :1], out.shape), atol=1e-6)


def test_dropout_keeps_the_expectation():
    qk, v, _, buckets = map(jnp.asarray, draw())
    attend = partial(lsh_attention, qk, v, buckets=buckets, chunk_size=C)
    keys = jax.random.split(jax.random.key(0), 2000)
    out, dropped = jax.jit(
        lambda keys: (attend()[0], jax.vmap(lambda key: attend(dropout_rate=0.3, dropout_key=key)[0])(keys))
    )(keys)
    assert np.abs(dropped.mean(0) - out).max() < 0.1
    assert np.abs(dropped - out).max() > 0.5


@pytest.mark.parametrize("implementation", ["blocked", "batched"])
def test_memory_is_linear(implementation):
    """Law 10: forward and backward together at most 2.2 times the bytes at twice the length."""

    def temp_bytes(length):
        arrays = [jax.ShapeDtypeStruct((1, length, 2, 16), jnp.float32)] * 2
        buckets = jax.ShapeDtypeStruct((1, length, 2, 2), jnp.int32)
        loss = lambda qk, v, buckets: lsh_attention(
            qk, v, buckets=buckets, n_buckets=64, chunk_size=32, implementation=implementation
        )[0].sum()
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*arrays, buckets).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temp_bytes(4096) <= 2.2 * temp_bytes(2048)


@pytest.mark.parametrize("implementation", ["blocked", "batched"])
def test_gradients_come_home_without_scatter(implementation):
    qk, v, _, buckets = map(jnp.asarray, draw())
    loss = lambda qk, v: lsh_attention(qk, v, buckets=buckets, chunk_size=C, implementation=implementation)[0].sum()
    jaxpr = str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(qk, v))
    assert "gather" in jaxpr
    assert "scatter-add" not in jaxpr and "scatter_add" not in jaxpr


ROTATIONS = jnp.zeros((N, H, 2, 3))
MISTAKES = {
    "rotations, buckets: neither": dict(),
    "rotations, buckets: both": dict(rotations=ROTATIONS, buckets=jnp.zeros((B, T, N, 2), jnp.int32)),
    "n_buckets=5: .*even": dict(rotations=ROTATIONS, n_buckets=5),
    r"n_buckets=\(4, 3\): .*even": dict(rotations=ROTATIONS, n_buckets=(4, 3)),
    "rotations have 3 columns; n_buckets=8 needs 4": dict(rotations=ROTATIONS, n_buckets=8),
    "chunk_size=0: .*at least 1": dict(rotations=ROTATIONS, chunk_size=0),
    "look_back='both': .*'within_round'": dict(rotations=ROTATIONS, look_back="both"),
    "scaling='cosine': .*'unit_keys_scaled'": dict(rotations=ROTATIONS, scaling="cosine"),
    "correct_duplicates='trax': .*'lucid'": dict(rotations=ROTATIONS, correct_duplicates="trax"),
    "implementation='cudnn': .*'batched'": dict(rotations=ROTATIONS, implementation="cudnn"),
    "dropout_rate=1.0: .*less than 1": dict(rotations=ROTATIONS, dropout_rate=1.0),
    "dropout_key=None: dropout_rate=0.1": dict(rotations=ROTATIONS, dropout_rate=0.1),
}


@pytest.mark.parametrize("message, options", list(MISTAKES.items()))
def test_mistakes_are_named(message, options):
    qk, v, _, _ = map(jnp.asarray, draw())
    with pytest.raises(ValueError, match=message):
        lsh_attention(qk, v, **(dict(chunk_size=C) | options))
