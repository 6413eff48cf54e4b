"""Every attention family as the laws see it: a fast op, a naive oracle, a layer.

A new family is one more entry of `FAMILIES`; it is not done before every file beside this one passes for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from effjax.layers import FullAttention, LocalAttention, LSHAttention, Mixer
from effjax.ops.full import full_attention
from effjax.ops.local import local_attention
from effjax.ops.lsh import lsh_attention

HEADS, WIDTH, CHUNK, BUCKETS, HASHES = 2, 8, 8, 4, 2


@dataclass(frozen=True)
class Family:
    """One way of exchanging information between positions.

    Attributes:
      name: as configurations name it.
      arrays: names of the differentiable inputs, each `[B, T, N, H]`.
      op: `op(arrays, frozen, causal=…, padding_mask=…, segment_ids=…) -> [B, T, N, H]`.
      visible: `visible(frozen, causal, padding_mask, length) -> bool [rounds, B, N, T, T]`, which keys each query may
        see, by loops over positions and nothing clever.
      layer: constructor of the layer, with any of its attributes.
      has_buckets: whether `frozen` holds hash buckets.
    """

    name: str
    arrays: tuple[str, ...]
    op: Callable[..., Any]
    visible: Callable[..., np.ndarray]
    layer: Callable[..., Mixer]
    has_buckets: bool = False

    def inputs(self, length: int, *, batch: int = 2, seed: int = 0, dtype=np.float64):
        """Random arrays, and the discrete choices that the laws hold fixed."""
        rng = np.random.default_rng(seed)
        arrays = {name: rng.normal(size=(batch, length, HEADS, WIDTH)).astype(dtype) for name in self.arrays}
        frozen = {}
        if self.has_buckets:
            frozen["buckets"] = rng.integers(0, BUCKETS, (batch, length, HEADS, HASHES)).astype(np.int32)
        return arrays, frozen

    def oracle(self, arrays, frozen, *, causal=True, padding_mask=None, segment_ids=None):
        """The family's equation with a dense mask, differentiable, in the dtype of the arrays."""
        length = next(iter(arrays.values())).shape[1]
        mask = self.visible(frozen, causal, padding_mask, length)
        if segment_ids is not None:
            mask = mask & (segment_ids[:, None, :, None] == segment_ids[:, None, None, :])
        if self.has_buckets:
            return shared_qk_rounds(arrays["qk"], arrays["v"], mask)
        return dense(arrays["q"], arrays["k"], arrays["v"], mask[0])


def dense(q, k, v, mask):
    """softmax(q k^T / sqrt(H)) v over what the mask allows; 0 for a row that may see nothing."""
    logits = jnp.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(q.shape[-1])
    weights = jnp.where(mask, jnp.exp(logits - jnp.max(jnp.where(mask, logits, -1e30), -1, keepdims=True)), 0.0)
    total = weights.sum(-1, keepdims=True)
    weights = jnp.where(total > 0, weights / jnp.where(total > 0, total, 1.0), 0.0)
    return jnp.einsum("bnts,bsnh->btnh", weights, v)


def shared_qk_rounds(qk, v, mask):
    """Attention to unit-norm keys in every round, self as last resort, rounds weighed by their log-sum-exp."""
    keys = qk / jnp.linalg.norm(qk, axis=-1, keepdims=True)
    logits = jnp.einsum("btnh,bsnh->bnts", qk, keys) - 1e5 * jnp.eye(qk.shape[1])
    logits = jnp.where(mask, logits, -1e30)
    lse = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    rounds = jnp.exp(logits - lse) @ jnp.moveaxis(v, 1, 2)
    combined = jnp.sum(jax.nn.softmax(lse, axis=0) * rounds, axis=0)
    return jnp.moveaxis(jnp.where(mask.any((0, -1))[..., None], combined, 0.0), 1, 2)


def causal_and_valid(causal, padding_mask, length, batch):
    time = np.arange(length)
    mask = time[:, None] >= time[None, :] if causal else np.ones((length, length), bool)
    mask = np.broadcast_to(mask, (batch, 1, length, length))
    if padding_mask is not None:
        mask = mask & np.asarray(padding_mask)[:, None, None, :]
    return mask


def full_visible(frozen, causal, padding_mask, length):
    batch = 1 if padding_mask is None else len(padding_mask)
    return causal_and_valid(causal, padding_mask, length, batch)[None]


def local_visible(frozen, causal, padding_mask, length):
    chunk = np.arange(length) // CHUNK
    behind = chunk[:, None] - chunk[None, :]
    near = (behind <= 1) & (behind >= (0 if causal else -1))
    return full_visible(frozen, causal, padding_mask, length) & near


def lsh_visible(frozen, causal, padding_mask, length):
    """Sorts by bucket and position (padding last) and opens each chunk to itself and to the one before it."""
    buckets = np.asarray(frozen["buckets"])
    batch, _, heads, rounds = buckets.shape
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
    return near & causal_and_valid(causal, padding_mask, length, batch)[None]


def on_arrays(op):
    """The op on `jax.Array`s, whatever kind of arrays a law holds."""
    as_array = lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf
    return lambda *args, **kwargs: op(*jax.tree.map(as_array, args), **jax.tree.map(as_array, kwargs))


FAMILIES = (
    Family(
        name="full",
        arrays=("q", "k", "v"),
        op=on_arrays(lambda arrays, frozen, **kwargs: full_attention(arrays["q"], arrays["k"], arrays["v"], **kwargs)),
        visible=full_visible,
        layer=FullAttention,
    ),
    Family(
        name="local",
        arrays=("q", "k", "v"),
        op=on_arrays(
            lambda arrays, frozen, *, causal=True, **kwargs: local_attention(
                arrays["q"],
                arrays["k"],
                arrays["v"],
                chunk_size=CHUNK,
                look_ahead=0 if causal else 1,
                causal=causal,
                **kwargs,
            )
        ),
        visible=local_visible,
        layer=lambda *, causal=True, **kwargs: LocalAttention(
            chunk_size=CHUNK, causal=causal, look_ahead=0 if causal else 1, **kwargs
        ),
    ),
    Family(
        name="lsh",
        arrays=("qk", "v"),
        op=on_arrays(
            lambda arrays, frozen, **kwargs: lsh_attention(
                arrays["qk"],
                arrays["v"],
                buckets=frozen["buckets"],
                n_buckets=BUCKETS,
                chunk_size=CHUNK,
                look_back="within_round",
                **kwargs,
            )[0]
        ),
        visible=lsh_visible,
        layer=lambda **kwargs: LSHAttention(
            chunk_size=CHUNK, n_buckets=BUCKETS, n_hashes=HASHES, look_back="within_round", **kwargs
        ),
        has_buckets=True,
    ),
)
IMPLEMENTATIONS = ("blocked", "batched")
