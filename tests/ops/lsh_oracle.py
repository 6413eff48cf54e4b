"""LSH attention from its definition: count in numpy who meets whom how often, then one dense float64 softmax."""

import numpy as np

SELF_PENALTY = 1e5


def count_meetings(buckets, chunk_size, *, look_back="circular", same_bucket=False):
    """buckets [B,T,N,R], T a multiple of chunk_size -> int [B,N,T,T]: how often query i finds key j in its chunks."""
    batch, length, heads, rounds = buckets.shape
    counts = np.zeros((batch, heads, length, length), int)
    for b, n in np.ndindex(batch, heads):
        chunks = [np.argsort(buckets[b, :, n, r], kind="stable").reshape(-1, chunk_size) for r in range(rounds)]
        for r in range(rounds):
            for u, queries in enumerate(chunks[r]):
                seen = [(r, key) for key in chunks[r][u]]
                if u > 0 and look_back != "none":
                    seen += [(r, key) for key in chunks[r][u - 1]]
                if u == 0 and look_back == "circular":
                    seen += [((r - 1) % rounds, key) for key in chunks[r - 1][-1]]
                for query in queries:
                    for other, key in seen:
                        same = other == r and buckets[b, key, n, r] == buckets[b, query, n, r]
                        counts[b, n, query, key] += same or not same_bucket
    return counts


def pairs_open(length, *, causal, padding_mask=None, segment_ids=None):
    """bool [B|1, 1, T, T]: which keys a query may see, wherever they stand."""
    allowed = np.ones((1, 1, length, length), bool)
    if causal:
        allowed = allowed & np.tril(np.ones((length, length), bool))
    if padding_mask is not None:
        allowed = allowed & padding_mask[:, None, None, :]
    if segment_ids is not None:
        allowed = allowed & (segment_ids[:, None, :, None] == segment_ids[:, None, None, :])
    return allowed


def dense(qk, v, weights, *, scaling="unit_keys", cotangent=None):
    """Softmax in which key j weighs weights[b,n,i,j] exp(logit); also the gradients of sum(out * cotangent)."""
    qk, v = np.asarray(qk, np.float64), np.asarray(v, np.float64)
    length, width = qk.shape[1], qk.shape[-1]
    inverse_norm = (np.square(qk).mean(-1, keepdims=True) + 1e-6) ** -0.5
    scale = 1 / width if scaling == "unit_keys_scaled" else width**-0.5
    k = qk * inverse_norm * scale
    itself = np.eye(length, dtype=bool)
    logits = np.where(itself, -SELF_PENALTY, np.einsum("btnh,bsnh->bnts", qk, k))
    logits = np.where(weights > 0, logits, -np.inf)
    highest = np.maximum(logits.max(-1, keepdims=True), -1e30)
    p = weights * np.exp(logits - highest)
    p /= np.maximum(p.sum(-1, keepdims=True), 1e-300)
    out = np.einsum("bnts,bsnh->btnh", p, v)
    if cotangent is None:
        return out
    cotangent = np.asarray(cotangent, np.float64)
    grad_v = np.einsum("bnts,btnh->bsnh", p, cotangent)
    grad_p = np.einsum("btnh,bsnh->bnts", cotangent, v)
    grad_s = np.where(itself, 0, p * (grad_p - (p * grad_p).sum(-1, keepdims=True)))
    grad_q = np.einsum("bnts,bsnh->btnh", grad_s, k)
    grad_k = scale * np.einsum("bnts,btnh->bsnh", grad_s, qk)
    along = (grad_k * qk).sum(-1, keepdims=True)
    return out, grad_q + grad_k * inverse_norm - qk * inverse_norm**3 * along / width, grad_v
