"""Sliding-window attention with global tokens that differ from example to example; linear in length."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from effjax.ops import longformer_batched, longformer_blocked
from effjax.ops.arguments import check_dropout, check_implementation
from effjax.ops.full import full_attention
from effjax.ops.masking import PADDED, pad_ids, pair_ids
from effjax.ops.platforms import by_platform

_FORMS = {"blocked": longformer_blocked, "batched": longformer_batched}


@dataclass(frozen=True)
class Band:
    """The keys of a query's window: from `before` positions back to `after` positions ahead."""

    before: int
    after: int
    causal: bool  # of global tokens too: only those at or before the query are seen
    dropout_rate: float


class Globals(NamedTuple):
    """The global tokens of each example, as keys; at most G of them."""

    k: Float[Array, "B G N H"]
    v: Float[Array, "B G N H"]


class Rules(NamedTuple):
    """What else decides: ids that have to agree, the positions that order global tokens, and the key of the dropout."""

    query_ids: Int[Array, "B T"]
    key_ids: Int[Array, "B T"]  # of the window, in which global tokens are not there
    positions: Int[Array, "B T"]
    global_ids: Int[Array, "B G"]
    global_positions: Int[Array, "B G"]
    dropout_key: Key[Array, ""] | None


def longformer_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    q_global: Float[Array, "B T N H"] | None = None,
    k_global: Float[Array, "B T N H"] | None = None,
    v_global: Float[Array, "B T N H"] | None = None,
    *,
    window: int,
    dilation: int | tuple[int, ...] = 1,
    global_mask: Bool[Array, "B T"] | None = None,
    max_global: int = 0,
    causal: bool = False,
    padding_mask: Bool[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
    implementation: str | None = None,
) -> Float[Array, "B T N H"]:
    """Attends from every query to its window and to the global tokens, and from global tokens to everything.

        i not in G:  out_i = sum_j softmax_j(scale q_i . k_j) v_j,      j in {i + d m, |m| <= w} united with G
        i in G:      out_i = sum_j softmax_j(scale qg_i . kg_j) vg_j,   all j

    A global token within a window counts once. Causal: only j <= i in every set. Where there is no key, 0.

    Args:
      q: queries.
      k: keys.
      v: values.
      q_global: queries of the global tokens, by projections of their own; only their rows are read.
      k_global: keys that they see.
      v_global: values that they see.
      window: w, steps that a query sees to either side (causal: back). Other code counts otherwise: Hugging Face's
        `attention_window` is 2 w, the number of causal keys is w + 1.
      dilation: d, distance of neighbouring keys, 1 for no gaps; one for all heads or one for each. The paper's tables
        give the gap, d - 1.
      global_mask: True at global tokens, G; they may differ between examples. None: there are none.
      max_global: most global tokens of an example. The outputs of an example that has more are NaN.
      causal: no key after the query is seen. The published code stores this option and never uses it.
      padding_mask: True at keys that are there; a global token that is not there is none.
      segment_ids: document of each position; a query sees only its own, and only its own global tokens.
      scale: 1 / sqrt(H) if None.
      dropout_rate: probability that a weight is dropped; in windows one mask serves all examples and heads.
      dropout_key: key of the dropout; masks differ between implementations.
      implementation: "blocked" (CPU), "batched" (accelerators; splits over batch, heads and length), or None for the
        best of the platform being compiled for.

    Returns:
      The mixed values, in the dtype of q.

    Raises:
      ValueError: options out of range or that do not fit together.

    Source: Beltagy, Peters & Cohan 2020 (arXiv 2004.05150), section 3.1.
    """
    batch, length, heads, width = q.shape
    dilations = (dilation,) * heads if isinstance(dilation, int) else tuple(dilation)
    if window < 0:
        raise ValueError(f"window is {window}: it must be at least 0")
    if len(dilations) != heads or min(dilations) < 1:
        raise ValueError(f"dilation is {dilation} with {heads} heads: one number of at least 1, or one for each head")
    if max_global < 0 or (max_global > 0) != (global_mask is not None):
        raise ValueError(f"max_global is {max_global}: it must be at least 1 with a global_mask, and 0 without")
    if max_global and (q_global is None or k_global is None or v_global is None):
        raise ValueError(f"max_global is {max_global}: q_global, k_global and v_global must be given")
    check_dropout(dropout_rate, dropout_key)
    check_implementation(implementation, tuple(_FORMS))

    scale = width**-0.5 if scale is None else scale
    ids = pair_ids(padding_mask, segment_ids, segment_ids, length)
    query_ids, key_ids = (pad_ids(x, batch, length, length, keys=False) for x in ids)
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length))
    if global_mask is None:
        places = jnp.zeros((batch, 0), jnp.int32)
    else:
        global_mask = global_mask & (key_ids != PADDED)
        places = global_places(global_mask, max_global)
    rules = Rules(
        query_ids,
        key_ids if global_mask is None else jnp.where(global_mask, PADDED, key_ids),
        positions,
        at_places(key_ids, places, PADDED),
        places,
        dropout_key if dropout_rate else None,
    )
    tokens = Globals(at_places(k, places), at_places(v, places))
    scaled, parts, groups = q * jnp.asarray(scale, q.dtype), [], group_heads(dilations)
    for step, own in groups:
        group = [take_heads(x, own) for x in (scaled, k, v, *tokens)]
        options = dict(step=step, window=window, causal=causal, rate=dropout_rate, form=implementation)
        parts.append(_dilated(*group, rules, **options))
    out = join_heads(parts, groups)
    if global_mask is None:
        return out

    options = {"mask": (places[:, :, None] >= positions[:, None])[:, None]} if causal else {}
    if dropout_rate:
        options |= dict(dropout_rate=dropout_rate, dropout_key=jax.random.fold_in(dropout_key, 1))
    rows = full_attention(
        at_places(q_global, places),
        k_global,
        v_global,
        segment_ids=at_places(query_ids, places),
        key_segment_ids=key_ids,
        scale=scale,
        **options,
    )
    out = out.at[jnp.arange(batch)[:, None], places].set(rows.astype(out.dtype), mode="drop")
    fits = jnp.sum(global_mask, 1) <= max_global
    return jnp.where(fits[:, None, None, None], out, jnp.nan)


def group_heads(dilations: tuple[int, ...]) -> list[tuple[int, np.ndarray]]:
    """The dilations that occur, in increasing order, each with its heads."""
    each = np.array(dilations)
    return [(int(step), np.flatnonzero(each == step)) for step in np.unique(each)]


def take_heads(x: Shaped[Array, "B T N *rest"], heads: np.ndarray) -> Shaped[Array, "B T n *rest"]:
    """Some of the heads; neighbours are sliced out rather than gathered."""
    first, last = int(heads[0]), int(heads[-1])
    return x[:, :, first : last + 1] if last - first + 1 == len(heads) else x[:, :, heads]


def join_heads(parts: list[Shaped[Array, "B T _n *rest"]], groups: list[tuple[int, np.ndarray]]) -> jax.Array:
    """All heads, in order, from the parts of the groups."""
    order = np.argsort(np.concatenate([heads for _, heads in groups]))
    joined = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=2)
    return joined if np.all(np.diff(order) == 1) else joined[:, :, order]


def global_places(global_mask: Bool[Array, "B T"], max_global: int) -> Int[Array, "B {max_global}"]:
    """Positions of the first `max_global` global tokens of each example; T where there are fewer."""
    batch, length = global_mask.shape
    rank = jnp.where(global_mask, jnp.cumsum(global_mask, axis=1) - 1, max_global)
    places = jnp.full((batch, max_global), length, jnp.int32)
    time = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length))
    return places.at[jnp.arange(batch)[:, None], rank].set(time, mode="drop")


def at_places(x, places, fill=0):
    """Rows of [B, T, ...] at positions [B, G] of each example; `fill` at position T."""
    return jax.vmap(lambda row, at: row.at[at].get(mode="fill", fill_value=fill))(x, places)


def _dilated(q, k, v, k_global, v_global, rules, *, step, window, causal, rate, form):
    """Attention of heads of one dilation: without gaps on each of the `step` residue classes of positions."""
    length = q.shape[1]
    reach = min(window, max(-(-length // step) - 1, 0))
    band = Band(reach, 0 if causal else reach, causal, rate)
    classes = partial(residue_classes, step=step)
    rules = Rules(
        classes(rules.query_ids),
        classes(rules.key_ids, fill=PADDED),
        classes(rules.positions),
        jnp.repeat(rules.global_ids, step, 0),
        jnp.repeat(rules.global_positions, step, 0),
        rules.dropout_key,
    )
    tokens = Globals(jnp.repeat(k_global, step, 0), jnp.repeat(v_global, step, 0))
    return from_residue_classes(_attend(band, form, classes(q), classes(k), classes(v), tokens, rules), step, length)


def residue_classes(x, step, *, fill=0):
    """[B, T, ...] -> [B * step, T / step rounded up, ...]: positions r, r + step, r + 2 step, … as a row each."""
    if step == 1:
        return x
    batch, length, *rest = x.shape
    x = jnp.pad(x, ((0, 0), (0, -length % step), *[(0, 0)] * len(rest)), constant_values=fill)
    return x.reshape(batch, -1, step, *rest).swapaxes(1, 2).reshape(batch * step, -1, *rest)


def from_residue_classes(x, step, length):
    """The inverse of `residue_classes`."""
    if step == 1:
        return x
    rows, _, *rest = x.shape
    x = x.reshape(rows // step, step, -1, *rest).swapaxes(1, 2)
    return x.reshape(rows // step, -1, *rest)[:, :length]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(band, implementation, q, k, v, tokens, rules):
    return _forward(band, implementation, q, k, v, tokens, rules)[0]


def _forward(band, implementation, q, k, v, tokens, rules):
    out, lse = _per_platform("forward", band, implementation, q, k, v, tokens, rules)
    return out, (q, k, v, tokens, rules, out, lse)


def _backward(band, implementation, residuals, g):
    grad_q, grad_k, grad_v, grad_tokens = _per_platform("backward", band, implementation, *residuals, g)
    return grad_q, grad_k, grad_v, Globals(*grad_tokens), None


_attend.defvjp(_forward, _backward)


def _per_platform(direction, band, implementation, *arrays):
    """Runs one direction in the named form, or in the best one for the platform that the program is lowered for."""
    forms = {name: partial(getattr(form, direction), band) for name, form in _FORMS.items()}
    if implementation is not None:
        return forms[implementation](*arrays)
    return by_platform(*arrays, cpu=forms["blocked"], default=forms["batched"])
