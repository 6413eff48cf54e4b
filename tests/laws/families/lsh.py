"""LSH attention, for given buckets: what it hashes is what it sees."""

import jax
import jax.numpy as jnp
import numpy as np

from effjax.layers import LSHAttention
from effjax.ops.lsh import lsh_attention
from tests.laws.families.family import CHUNK, HEADS, Family, allowed, on_arrays, projected_past

BUCKETS, HASHES = 4, 2


def visible(buckets, padding_mask):
    """Sorts by bucket and position (padding last) and opens each chunk to itself and to the one before it."""
    batch, length, heads, rounds = buckets.shape
    valid = np.ones((batch, length), bool) if padding_mask is None else np.asarray(padding_mask)
    near = np.zeros((rounds, batch, heads, length, length), bool)
    for b in range(batch):
        for n in range(heads):
            for r in range(rounds):
                order = sorted(range(length), key=lambda t: (not valid[b, t], buckets[b, t, n, r], t))
                chunk = {t: place // CHUNK for place, t in enumerate(order)}
                for i in range(length):
                    for j in range(length):
                        near[r, b, n, i, j] = 0 <= chunk[i] - chunk[j] <= 1
    return near


def oracle(arrays, frozen, *, padding_mask=None, **rules):
    """Attention to unit-norm keys in every round, self as last resort, rounds weighed by their log-sum-exp."""
    qk, v = arrays["qk"], arrays["v"]
    batch, length = qk.shape[:2]
    mask = allowed(length, padding_mask=padding_mask, batch=batch, **rules)
    mask = visible(np.asarray(frozen["buckets"]), padding_mask) & mask
    keys = qk / jnp.linalg.norm(qk, axis=-1, keepdims=True)
    logits = jnp.einsum("btnh,bsnh->bnts", qk, keys) - 1e5 * jnp.eye(length)
    logits = jnp.where(mask, logits, -1e30)
    lse = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    rounds = jnp.exp(logits - lse) @ jnp.moveaxis(v, 1, 2)
    combined = jnp.sum(jax.nn.softmax(lse, axis=0) * rounds, axis=0)
    return jnp.moveaxis(jnp.where(mask.any((0, -1))[..., None], combined, 0.0), 1, 2)


def op(arrays, frozen, **kwargs):
    options = dict(n_buckets=BUCKETS, chunk_size=CHUNK, look_back="within_round")
    return lsh_attention(arrays["qk"], arrays["v"], buckets=frozen["buckets"], **options, **kwargs)[0]


def make_layer(**kwargs):
    options = dict(chunk_size=CHUNK, n_buckets=BUCKETS, n_hashes=HASHES, look_back="within_round")
    return LSHAttention(**options | kwargs)


def choices(rng, batch, length):
    return {"buckets": rng.integers(0, BUCKETS, (batch, length, HEADS, HASHES)).astype(np.int32)}


LSH = Family(
    name="lsh",
    sequences=("v", "qk"),
    op=on_arrays(op),
    oracle=oracle,
    layer=make_layer,
    choices=choices,
    replay=lambda frozen, rows, length: jnp.asarray(frozen["buckets"][rows, :length]),
    # A bucket that fits its chunk is cut nowhere: then sorted chunks give the dense definition, which is what streams.
    streaming=dict(same_bucket=True, chunk_size=4 * CHUNK + 3),
    check_state=lambda layer, params, x, state: projected_past(params, x, state, "query_key"),
)
