"""LSH attention: positions attend to those that hash to the same bucket. Cost linear in the length."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32, Key

from effjax.ops import lsh_rounds
from effjax.ops.hashing import NBuckets, hash_vectors, sort_by_bucket, total_buckets
from effjax.ops.heads import over_heads
from effjax.ops.lsh_rounds import ABSENT, Meetings, Order, Rules
from effjax.ops.masking import keep_scale

LOOK_BACKS = ("circular", "within_round", "none")
SCALINGS = ("unit_keys", "unit_keys_scaled")


def lsh_attention(
    qk: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    *,
    rotations: Float[Array, "... N H R b"] | None = None,
    buckets: Int32[Array, "B T N R"] | None = None,
    n_buckets: NBuckets | None = None,
    chunk_size: int,
    causal: bool = True,
    look_back: str = "circular",
    scaling: str = "unit_keys",
    same_bucket: bool = False,
    correct_duplicates: bool | str = False,
    padding_mask: Bool[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    self_penalty: float = 1e5,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
    implementation: str | None = None,
) -> tuple[Float[Array, "B T N H"], Int32[Array, "B T N R"]]:
    """Shared-QK attention within chunks of the sequence sorted by hash bucket, over several rounds of hashing.

        k_j = q_j / |q_j|,   l_ij = q_i k_j  (l_ii = -self_penalty),
        o_i = sum over rounds r and j in P_i^r of w_ij exp(l_ij) v_j / the same sum without v_j

    P_i^r holds the keys in the chunk of i and in the chunk before it, in the order of round r. w_ij = 1 or, with
    `correct_duplicates`, 1 / N_ij where i meets j in N_ij places: then it is one softmax over the union of all P_i^r.
    A position sees itself only where nothing else is open; one that may see nothing gives 0.

    Args:
      qk: shared queries and keys. No gradient flows through the choice of buckets.
      v: values.
      rotations: from `lsh_rotations`: hash qk. Exactly one of rotations and buckets is given.
      buckets: replay this choice of buckets instead of hashing.
      n_buckets: as given to `lsh_rotations`; None means one factor of twice the columns of rotations. With buckets it
        is optional, a bound that makes sorting faster.
      chunk_size: positions in a chunk. Any sequence length will do.
      causal: position i sees j <= i only.
      look_back: what chunk 0 of a round sees besides itself. "circular": the last chunk of the round before (of the
        last round for the first), as public implementations do; "within_round": nothing; "none": no chunk sees the
        one before it.
      scaling: "unit_keys" (trax: no further factor) or "unit_keys_scaled" (reformer-pytorch: times 1 / sqrt(H)).
      same_bucket: see only keys of one's own bucket, as the paper's P_i says.
      correct_duplicates: True counts every meeting; "lucid" is reformer-pytorch's count, which forgets meetings over
        the seam between two rounds and gives a pair that meets only there the weight 1e9.
      padding_mask: True at real tokens. Padding is sorted behind all buckets and seen by nobody.
      segment_ids: packed documents do not see each other.
      self_penalty: minus the logit of a position on itself; far above any |q|.
      dropout_rate: share of attention weights set to 0; one mask [chunk, keys] serves all chunks, heads and examples.
      dropout_key: random key, needed with dropout_rate.
      implementation: "blocked" (CPU: one head at a time), "batched" (accelerators, sharded over batch and heads), or
        None for the platform's best.

    Returns:
      The output [B,T,N,H] and the buckets [B,T,N,R], those of padding being n_buckets (the largest int32 if unknown).

    Raises:
      ValueError: both or neither of rotations and buckets; odd n_buckets; chunk_size < 1; dropout without a key or not
        in [0, 1); an unknown option.

    Source: Kitaev, Kaiser, Levskaya, Reformer (arXiv 2001.04451), section 2 and appendix A.
    """
    if (rotations is None) == (buckets is None):
        given = "neither" if rotations is None else "both"
        raise ValueError(f"rotations, buckets: {given} given; exactly one of them is allowed")
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: must be at least 1")
    _one_of("look_back", look_back, LOOK_BACKS)
    _one_of("scaling", scaling, SCALINGS)
    _one_of("correct_duplicates", correct_duplicates, (False, True, "lucid"))
    _one_of("implementation", implementation, (None, "blocked", "batched"))
    if not 0 <= dropout_rate < 1:
        raise ValueError(f"dropout_rate={dropout_rate}: must be at least 0 and less than 1")
    if dropout_rate and dropout_key is None:
        raise ValueError(f"dropout_key=None: dropout_rate={dropout_rate} needs a random key")

    length = qk.shape[1]
    rules = Rules(min(chunk_size, length), causal, look_back, scaling, correct_duplicates, self_penalty)
    if rotations is not None:
        n_buckets = 2 * rotations.shape[-1] if n_buckets is None else n_buckets
        buckets = hash_vectors(qk, rotations, n_buckets=n_buckets)
    behind = jnp.iinfo(jnp.int32).max if n_buckets is None else total_buckets(n_buckets)
    if padding_mask is not None:
        buckets = jnp.where(padding_mask[:, :, None, None], buckets, behind)

    padded = -(-length // rules.chunk_size) * rules.chunk_size
    pad = lambda x, value: jnp.pad(x, ((0, 0), (0, padded - length)) + ((0, 0),) * (x.ndim - 2), constant_values=value)
    by_head = lambda x: pad(x, 0).swapaxes(1, 2)
    order, meetings = _sort(
        pad(buckets, behind).transpose(0, 2, 3, 1),
        None if n_buckets is None else behind + 1,
        jnp.arange(padded)[None] < length if padding_mask is None else pad(padding_mask, False),
        None if segment_ids is None else pad(segment_ids.astype(jnp.int32), 0),
        same_bucket,
        rules,
    )
    keep = None
    if dropout_rate:
        keys = rules.chunk_size * (1 if look_back == "none" else 2)
        keep = keep_scale(dropout_key, (rules.chunk_size, keys), dropout_rate, jnp.promote_types(v.dtype, jnp.float32))
    out = _attend(rules, implementation, by_head(qk), by_head(v), order, meetings, keep)
    return out.swapaxes(1, 2)[:, :length], buckets


def _sort(buckets, n_buckets, valid, segments, same_bucket, rules):
    """Buckets [B,N,R,L] to the Order of every head and, where meetings are counted, the Meetings; both int32."""
    order, inverse = sort_by_bucket(buckets, n_buckets)
    rows, rounds, length = order, order.shape[2], order.shape[3]
    if rules.look_back != "none":
        last = order[..., -rules.chunk_size :]
        rows = jnp.concatenate([jnp.roll(last, 1, axis=2), order], -1)
    at = lambda x: jnp.take_along_axis(x, rows, -1, mode="promise_in_bounds")
    hidden = ~at(valid[:, None, None])
    outside = jnp.arange(rows.shape[-1]) < rows.shape[-1] - length  # in the chunk before the first
    if rules.look_back == "within_round":
        hidden |= outside
    bucket = None
    if same_bucket:
        bucket = at(buckets)
        if rounds > 1:  # buckets of different rounds have nothing in common
            bucket = jnp.where(outside, -1, bucket)
    segment = None if segments is None else at(segments[:, None, None])
    orders = Order(rows, inverse, jnp.where(hidden, ABSENT, rows), segment, bucket)
    if not rules.correct_duplicates:
        return orders, None

    chunk = inverse // rules.chunk_size
    last_chunk = length // rules.chunk_size - 1
    across = rounds == 1 or (rules.correct_duplicates is True and not same_bucket)
    if rules.look_back == "circular" and across:
        reached = jnp.where(jnp.roll(chunk, 1, axis=2) == last_chunk, 0, -1)
    else:
        reached = jnp.full_like(chunk, -1)
    return orders, Meetings(chunk, reached, buckets if same_bucket else None)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(rules, implementation, qk, v, order, meetings, keep):
    return _forward(rules, implementation, qk, v, order, meetings, keep)[0]


def _forward(rules, implementation, qk, v, order, meetings, keep):
    head = lambda *args: lsh_rounds.forward(*args, keep, rules)
    out, highest, total = over_heads(head, implementation, qk, v, order, meetings)
    return out, (qk, v, order, meetings, keep, out, highest, total)


def _backward(rules, implementation, residuals, g):
    *args, keep, out, highest, total = residuals
    head = lambda *args: lsh_rounds.backward(*args[:4], keep, *args[4:], rules)
    return *over_heads(head, implementation, *args, out, highest, total, g), None, None, None


_attend.defvjp(_forward, _backward)


def _one_of(name, value, allowed):
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: allowed are {', '.join(map(repr, allowed))}")
