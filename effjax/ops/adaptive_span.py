"""Attention whose heads learn how far back they look (adaptive attention span)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from effjax.ops.relative import relative_attention


def adaptive_span_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    *,
    span: Float[Array, "N"] | Float[Array, "B T N"],
    ramp: int = 32,
    max_span: int,
    rel_embedding: Float[Array, "max_span H"],
    visited: int | None = None,
    zero_cache: bool = False,
    persistent: tuple[Float[Array, "M N H"], Float[Array, "M N H"]] | None = None,
    query_offset: int | None = None,
    padding_mask: Bool[Array, "B S"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    key_segment_ids: Int[Array, "B S"] | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
    implementation: str | None = None,
) -> Float[Array, "B T N H"]:
    """Attends to the `max_span` tokens before a query, itself excluded, through a soft window of learned width z.

        s_x = (q_t . k_{t-x} + q_t . p_x) / sqrt(H),    m_z(x) = clip((R + z - (x - 1)) / R, 0, 1),    x = 1 … max_span
        out_t = sum_x a_x v_{t-x},    a_x = m_z(x) exp(s_x) / sum_y m_z(y) exp(s_y)

    Distances count from 0 at the nearest key, as in the original code, so that even z = 0 sees R keys. Differentiable
    with respect to z, too. The original divides by the sum plus 1e-8, which is left out.

    Args:
      q: queries; the first one stands at the position of key `query_offset`.
      k: keys.
      v: values.
      span: z of every head, or of every head at every query, in positions, 0 to max_span.
      ramp: R, positions over which the window falls from 1 to 0.
      max_span: greatest distance at which a key may be seen.
      rel_embedding: p; row x - 1 belongs to distance x, and all heads share it.
      visited: distances that are computed. With z + R < visited for every z results and gradients are those of
        max_span, since further keys weigh nothing; beyond that the window is cut off. None: max_span.
      zero_cache: `max_span` zero rows stand before the first key and are attended, as at the start of a stream in the
        original; else a query sees no more than there is.
      persistent: keys and values that every query sees, wherever it stands, within the same softmax.
      query_offset: S - T if None: the keys end with the queries' own.
      padding_mask: True at keys that are there.
      segment_ids: document of each query; a query sees only its own.
      key_segment_ids: document of each key; segment_ids if None.
      dropout_rate: probability that a weight is dropped, after the division by the sum; not of persistent keys.
      dropout_key: key of the dropout.
      implementation: see `effjax.ops.relative.relative_attention`.

    Returns:
      The mixed values, in the dtype of q; 0 for a query that sees nothing.

    Raises:
      ValueError: sizes out of range, or zero_cache together with documents.

    Source: Sukhbaatar, Grave, Bojanowski & Joulin 2019 (arXiv 1905.07799), section 3; persistent keys: Sukhbaatar,
      Grave, Lample, Jegou & Joulin 2019 (arXiv 1907.01470).
    """
    check_sizes(max_span, ramp, visited)
    if rel_embedding.shape[0] != max_span:
        raise ValueError(f"rel_embedding has {rel_embedding.shape[0]} rows; max_span={max_span} needs as many")
    visited = max_span if visited is None else visited
    offset = k.shape[1] - q.shape[1] if query_offset is None else query_offset
    if zero_cache:
        if segment_ids is not None:
            raise ValueError("zero_cache=True with segment_ids: no document owns the zero rows; give one of the two")
        behind = max(visited - offset, 0)
        k, v = (jnp.pad(x, ((0, 0), (behind, 0), (0, 0), (0, 0))) for x in (k, v))
        if padding_mask is not None:
            padding_mask = jnp.pad(padding_mask, ((0, 0), (behind, 0)), constant_values=True)
        offset += behind
    out, lse = relative_attention(
        q,
        k,
        v,
        rel=rel_embedding[:, None],
        rel_start=1,
        min_distance=1,
        window=visited,
        span=span[None, None] if span.ndim == 1 else span,
        ramp=float(ramp),
        query_offset=offset,
        padding_mask=padding_mask,
        segment_ids=segment_ids,
        key_segment_ids=key_segment_ids,
        dropout_rate=dropout_rate,
        dropout_key=dropout_key,
        implementation=implementation,
    )
    return out if persistent is None else _beside_persistent(q, out, lse, *persistent)


def check_sizes(max_span: int, ramp: int, visited: int | None) -> None:
    """Raises ValueError for sizes that make no window."""
    for name, value in (("max_span", max_span), ("ramp", ramp)):
        if value < 1:
            raise ValueError(f"{name}={value}; 1 or more is allowed")
    if visited is not None and not 1 <= visited <= max_span:
        raise ValueError(f"visited={visited}; 1 to max_span={max_span}, or None for that, is allowed")


def _beside_persistent(q, out, lse, keys, values):
    """One softmax over the window, whose sum is exp(lse), and over keys that are always there."""
    s = jnp.einsum("btnh,mnh->btnm", q, keys, preferred_element_type=lse.dtype) * q.shape[-1] ** -0.5
    total = jnp.logaddexp(lse, jax.nn.logsumexp(s, axis=-1))
    weights = jnp.exp(s - total[..., None]).astype(values.dtype)
    memory = jnp.einsum("btnm,mnh->btnh", weights, values, preferred_element_type=lse.dtype)
    return (jnp.exp(lse - total)[..., None] * out + memory).astype(q.dtype)
