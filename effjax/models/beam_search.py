"""Beam search for the likeliest sequences, over any step function and any state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from effjax.errors import UserError

NEVER = -1e30  # finite, so that no inf - inf arises; below any score


class Found(NamedTuple):
    """The best sequences of each row, best first; a row with fewer than `beams` of them ends in scores of `NEVER`."""

    tokens: jax.Array  # [B, beams, L], each ends in `end`, after which it is filled up with it
    scores: jax.Array  # [B, beams], log-probabilities divided by length^length_penalty
    lengths: jax.Array  # [B, beams], the end included


class _Search(NamedTuple):
    """Where a search stands."""

    t: jax.Array  # tokens written so far
    tokens: jax.Array  # [B, K, L] of the sequences that go on
    log_probs: jax.Array  # [B, K]
    state: Any
    found: Found


def batch_axes(make_state: Callable[[int], Any]) -> Any:
    """The axis along which each leaf of a state holds its rows, -1 for none: the one that grows with their number."""
    small, large = (jax.eval_shape(lambda rows=rows: make_state(rows)) for rows in (2, 3))

    def axis(a, b):
        return next((i for i, (m, n) in enumerate(zip(a.shape, b.shape)) if m != n), -1)

    return jax.tree.map(axis, small, large)


def beam_search(
    step: Callable[[Int[Array, "R"], Any], tuple[Float[Array, "R V"], Any]],
    state: Any,
    axes: Any,
    first: Int[Array, " B"],
    *,
    end: int,
    beams: int,
    max_length: int,
    length_penalty: float = 1.0,
) -> Found:
    """Writes the likeliest sequences, token by token.

        score(y) = log p(y_1 … y_n) / n^length_penalty,   y_n = end,   n <= max_length

    Each row keeps the `beams` likeliest beginnings and, beside them, the `beams` best sequences that ended; it stops
    when no beginning can still overtake those. Every sequence ends: the last of `max_length` tokens is `end`, at
    whatever probability. With as many beams as there are beginnings the best sequence of all is found.

    Args:
      step: takes the last token of R = B * beams sequences (those of a row side by side) and their state; returns the
        scores of what follows, normalised or not, and the state after these tokens. Tokens that must not be written
        have scores of `NEVER` or less.
      state: of R sequences before `first`.
      axes: the axis of each leaf of the state along which the sequences lie, see `batch_axes`.
      first: what each row begins with, not part of the result.
      end: the id that ends a sequence.
      beams: K.
      max_length: most tokens of a sequence, the end included.
      length_penalty: 0: none; 1: mean log-probability of a token.

    Returns:
      The best sequences of each row.

    Raises:
      UserError: a setting out of range.

    Source: the score is that of fairseq; Wu et al. 2016 (1609.08144), section 7, has another penalty.
    """
    for name, value in (("beams", beams), ("max_length", max_length)):
        if value < 1:
            raise UserError(f"{name}={value}; 1 or more is allowed")
    if length_penalty < 0:
        raise UserError(f"length_penalty={length_penalty}; 0 or more is allowed")
    batch, length = first.shape[0], max_length
    nothing = jnp.full((batch, beams, length), end, jnp.int32)
    no_scores = jnp.full((batch, beams), NEVER, jnp.float32)
    found = Found(nothing, no_scores, jnp.zeros((batch, beams), jnp.int32))
    # All beams of a row begin alike: only one of them counts, or they would stay alike.
    search = _Search(jnp.int32(0), nothing, no_scores.at[:, 0].set(0.0), state, found)

    def penalised(log_probs, n):
        return jnp.where(log_probs <= NEVER / 2, NEVER, log_probs / n**length_penalty)

    def goes_on(search):
        # Log-probabilities only fall, and a score below 0 divided by more is greater: no beginning gets beyond this.
        best = penalised(search.log_probs[:, 0], float(length))
        return (search.t < length) & jnp.any(best > search.found.scores[:, -1])

    def write(search):
        last = jnp.take(search.tokens, jnp.maximum(search.t - 1, 0), axis=2)
        last = jnp.where(search.t == 0, first[:, None], last)
        scores, state = step(last.reshape(-1), search.state)
        log_probs = jax.nn.log_softmax(scores.astype(jnp.float32), axis=-1).reshape(batch, beams, -1)
        log_probs = jnp.maximum(log_probs + search.log_probs[..., None], NEVER)

        ended = penalised(log_probs[..., end], search.t + 1.0)
        found = _best_found(search.found, search.tokens, ended, search.t + 1)

        vocabulary = log_probs.shape[-1]
        log_probs = log_probs.at[..., end].set(NEVER).reshape(batch, -1)
        log_probs, chosen = jax.lax.top_k(log_probs, beams)
        parents, token = chosen // vocabulary, chosen % vocabulary
        tokens = jnp.take_along_axis(search.tokens, parents[..., None], axis=1)
        tokens = jax.lax.dynamic_update_slice_in_dim(tokens, token[..., None].astype(jnp.int32), search.t, axis=2)
        return _Search(search.t + 1, tokens, log_probs, reorder(state, axes, parents), found)

    with jax.named_scope(f"mean_trips={length}"):
        return jax.lax.while_loop(goes_on, write, search).found


def _best_found(found: Found, tokens, scores, length) -> Found:
    """The best of what was found and of the beginnings that have just ended, with these scores."""
    lengths = jnp.broadcast_to(length, scores.shape)
    new = Found(tokens, scores, lengths)  # beginnings are filled up with `end`
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), found, new)
    scores, order = jax.lax.top_k(both.scores, scores.shape[1])
    take = lambda x: jnp.take_along_axis(x, order.reshape(*order.shape, *[1] * (x.ndim - 2)), axis=1)
    return Found(take(both.tokens), scores, take(both.lengths))


def reorder(state: Any, axes: Any, parents: Int[Array, "B K"]) -> Any:
    """The state whose sequence k of row i is what sequence `parents[i, k]` of that row was."""
    batch, beams = parents.shape
    rows = (parents + beams * jnp.arange(batch)[:, None]).reshape(-1)
    return jax.tree.map(lambda leaf, axis: leaf if axis < 0 else jnp.take(leaf, rows, axis=axis), state, axes)
