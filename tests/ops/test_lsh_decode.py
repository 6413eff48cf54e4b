"""The dense definition that continues a sequence, and where the fast form equals it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.ops.lsh import lsh_attention
from effjax.ops.lsh_decode import lsh_decode
from tests.ops.lsh_oracle import dense, pairs_open

B, T, N, H, R = 2, 40, 2, 8, 3


def draw(n_buckets=8, seed=0):
    rng = np.random.default_rng(seed)
    qk, v = (rng.normal(size=(B, T, N, H)).astype(np.float32) for _ in range(2))
    return qk, v, rng.integers(0, n_buckets, (B, T, N, R), dtype=np.int32)


def shared_rounds(buckets):
    """N_ij, [B,N,T,T]: the rounds in which i and j share a bucket."""
    return (buckets[:, :, None] == buckets[:, None]).sum(-1).transpose(0, 3, 1, 2)


@partial(jax.jit, static_argnames=("scaling", "correct_duplicates"))
def decode(qk, v, buckets, **options):
    return lsh_decode(qk, qk, v, buckets_new=buckets, bucket_cache=buckets, query_offset=0, **options)


@pytest.mark.parametrize("correct_duplicates", [False, True])
@pytest.mark.parametrize("scaling", ["unit_keys", "unit_keys_scaled"])
def test_equals_the_definition(correct_duplicates, scaling):
    qk, v, buckets = draw()
    rules = dict(
        padding_mask=np.arange(T) < np.array([[T], [T - 9]]),
        segment_ids=np.arange(T)[None] // 17 + 0 * qk[:, :, 0, 0].astype(int),
    )
    weights = shared_rounds(buckets)
    weights = (weights > 0 if correct_duplicates else weights) * pairs_open(T, causal=True, **rules)
    out = decode(
        qk,
        v,
        buckets,
        correct_duplicates=correct_duplicates,
        scaling=scaling,
        key_segment_ids=rules["segment_ids"],
        **rules,
    )
    np.testing.assert_allclose(out, dense(qk, v, weights, scaling=scaling), atol=1e-5)


@pytest.mark.parametrize("correct_duplicates", [False, True])
@pytest.mark.parametrize("chunk_size, n_buckets", [(T, 3), (8, 16)])
def test_sorted_chunks_equal_it_while_buckets_fit(correct_duplicates, chunk_size, n_buckets):
    """One chunk holds every bucket; and a bucket of at most chunk_size + 1 positions lies within two neighbours."""
    qk, v, buckets = draw(n_buckets)
    largest = max(np.bincount(row).max() for row in buckets.transpose(0, 2, 3, 1).reshape(-1, T))
    assert largest <= chunk_size + 1
    options = dict(same_bucket=True, look_back="within_round", correct_duplicates=correct_duplicates)
    parallel, _ = jax.jit(partial(lsh_attention, chunk_size=chunk_size, **options))(qk, v, buckets=buckets)
    np.testing.assert_allclose(parallel, decode(qk, v, buckets, correct_duplicates=correct_duplicates), atol=1e-5)


@pytest.mark.parametrize("pieces", [[1] * 8 + [32], [13, 27], [39, 1]], ids=str)
def test_any_split_equals_one_pass(pieces):
    qk, v, buckets = draw()
    step = jax.jit(lsh_decode)
    k_cache, v_cache = np.full_like(qk, 3), np.full_like(v, 3)  # what is not written yet is not read
    bucket_cache, outs, start = np.zeros_like(buckets), [], 0
    for size in pieces:
        new = slice(start, start + size)
        k_cache[:, new], v_cache[:, new], bucket_cache[:, new] = qk[:, new], v[:, new], buckets[:, new]
        offset = np.full(B, start, np.int32)
        outs.append(
            step(
                qk[:, new],
                k_cache,
                v_cache,
                buckets_new=buckets[:, new],
                bucket_cache=bucket_cache,
                query_offset=offset,
            )
        )
        start += size
    np.testing.assert_allclose(np.concatenate(outs, 1), decode(qk, v, buckets), atol=1e-6)


def test_long_prompts_go_in_blocks(monkeypatch):
    """The same output and gradient, whatever the block."""
    qk, v, buckets = map(jnp.asarray, draw())
    run = lambda qk, v: lsh_decode(qk, qk, v, buckets_new=buckets, bucket_cache=buckets, query_offset=0).sum()
    whole = jax.jit(jax.value_and_grad(run, argnums=(0, 1)))(qk, v)
    monkeypatch.setattr("effjax.ops.lsh_decode._QUERY_BLOCK", 12)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
        whole,
        jax.jit(jax.value_and_grad(run, argnums=(0, 1)))(qk, v),
    )


def test_nothing_to_see_gives_zero_and_segments_come_in_pairs():
    qk, v, buckets = draw()
    np.testing.assert_array_equal(decode(qk, v, buckets, padding_mask=np.zeros((B, T), bool)), 0)
    with pytest.raises(ValueError, match="key_segment_ids=None"):
        decode(qk, v, buckets, segment_ids=np.zeros((B, T), np.int32))
