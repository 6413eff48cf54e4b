"""Adaptive softmax: frequent tokens share a small softmax, the others wait in clusters behind it."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from effjax.ops.cross_entropy import chunked_cross_entropy
from effjax.ops.loops import dynamic_loop


class Clusters(NamedTuple):
    """A read-out in clusters 0 … n of ids in order of frequency; cluster i holds the V_i ids from `first[i]` on.

    Cluster 0 is the head, the others are tails.
    """

    tables: Sequence[Float[Array, "V_i D_i"]]
    biases: Sequence[Float[Array, " V_i"]]
    projections: Sequence[Float[Array, "D D_i"] | None]  # of the hidden vectors; None: none
    tail_table: Float[Array, "n D_0"]  # the head's classes "one of tail 1 … n"
    tail_bias: Float[Array, " n"]

    @property
    def sizes(self) -> list[int]:
        """V_0 … V_n."""
        return [len(bias) for bias in self.biases]

    @property
    def first(self) -> list[int]:
        """The first id of each cluster."""
        return [0, *np.cumsum(self.sizes)[:-1].tolist()]


def adaptive_nats(
    x: Float[Array, "B T D"], targets: Int[Array, "B T"], clusters: Clusters, *, chunk_size: int = 1024
) -> Float[Array, "B T"]:
    """Negative log-likelihood of each target.

        -log p(w) = -log softmax([x P_0 E_0^T + b_0 ; x P_0 C^T + c])_w                 for w in the head
        -log p(w) = -log softmax(the same)_{tail i} - log softmax(x P_i E_i^T + b_i)_w  for w in tail i

    The head's logits exist for `chunk_size` positions at a time. A tail looks only at the positions whose targets it
    holds, wherever they are: each row of the batch has its own put in front, and a loop takes a few of them at a time,
    as many times as the row with most of them needs. So a batch that is split over devices stays where it is.

    Args:
      x: hidden vectors.
      targets: ids.
      clusters: the read-out. Products run in the dtype of x; logits and sums are float32 or wider.
      chunk_size: most positions of the length whose logits of the head exist at once; tails take as many fewer as they
        are larger.

    Returns:
      nats per target, float32 (float64 for float64 inputs).

    Raises:
      ValueError: chunk_size below 1.

    Source: Grave et al. 2017 (1609.04309), section 4; tied and projected as in Dai et al. 2019 (1901.02860).
    """
    head_kernel, head_bias = _head(clusters, x.dtype)
    in_head = targets < clusters.sizes[0]
    tail_of = jnp.sum(targets[..., None] >= jnp.asarray(clusters.first[1:], targets.dtype), axis=-1)
    classes = jnp.where(in_head, targets, clusters.sizes[0] - 1 + tail_of)
    chunk_size = min(chunk_size, x.shape[1])
    nats = chunked_cross_entropy(
        _project(x, clusters.projections[0]), head_kernel, classes, bias=head_bias, chunk_size=chunk_size
    )
    shares = zipf_shares(clusters.sizes)
    for i, (table, bias, projection) in enumerate(zip(*clusters[:3])):
        if i:
            few = max(1, min(x.shape[1], chunk_size * head_bias.size // bias.size))
            trips = shares[i] * x.shape[1] / few + 0.5  # half a piece is lost by rounding up
            own = jnp.where(tail_of == i, targets - clusters.first[i], -1)
            nats += _tail_nats(few, trips, _project(x, projection), table, bias, own)
    return nats


def adaptive_log_probs(x: Float[Array, "B T D"], clusters: Clusters) -> Float[Array, "B T V"]:
    """The logarithm of every id's probability; see `adaptive_nats`.

    Args:
      x: hidden vectors.
      clusters: the read-out.

    Returns:
      float32 or wider; exp sums to 1.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def log_softmax(projection, kernel, bias):
        logits = jnp.einsum("btd,dv->btv", _project(x, projection), kernel, preferred_element_type=wide)
        return jax.nn.log_softmax(logits + bias.astype(wide), axis=-1)

    head = log_softmax(clusters.projections[0], *_head(clusters, x.dtype))
    own = clusters.sizes[0]
    tails = [
        head[..., own + i, None] + log_softmax(projection, table.astype(x.dtype).T, bias)
        for i, (table, bias, projection) in enumerate(list(zip(*clusters[:3]))[1:])
    ]
    return jnp.concatenate([head[..., :own], *tails], axis=-1)


def zipf_shares(sizes: Sequence[int]) -> list[float]:
    """The share of each cluster in a text whose w-th most frequent word has frequency 1 / w."""
    ends = np.cumsum(sizes)
    harmonic = np.log(ends + 0.5) + np.euler_gamma
    return (np.diff(harmonic, prepend=0.0) / harmonic[-1]).tolist()


def _head(clusters, dtype):
    """Kernel `[D_0, V_0 + n]` and bias of the head."""
    kernel = jnp.concatenate([clusters.tables[0], clusters.tail_table.astype(clusters.tables[0].dtype)]).astype(dtype)
    return kernel.T, jnp.concatenate([clusters.biases[0], clusters.tail_bias.astype(clusters.biases[0].dtype)])


def _project(x, projection):
    return x if projection is None else jnp.einsum("btd,de->bte", x, projection.astype(x.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _tail_nats(few, trips, x, table, bias, targets):
    """`-log softmax(x table^T + bias)[target]` where target >= 0, else 0; `few` such positions of every row at a time.

    `trips`: how often, on average.
    """
    return _tail_forward(few, trips, x, table, bias, targets)[0]


def _tail_forward(few, trips, x, table, bias, targets):
    plan = _Plan.of(targets, few)
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def step(i, state):
        nats, normaliser = state
        index, own = plan.piece(i, targets)
        logits = _logits(_take(x, index), table, bias)
        lse = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.take_along_axis(logits, jnp.maximum(own, 0)[..., None], axis=-1)[..., 0]
        return plan.put(nats, i, jnp.where(own >= 0, lse - chosen, 0)), plan.put(normaliser, i, lse)

    nothing = jnp.zeros(plan.order.shape, wide)
    nats, normaliser = dynamic_loop(0, plan.trips, step, (nothing, nothing), mean_trips=trips)
    return plan.back(nats, targets), (x, table, bias, targets, normaliser)


def _tail_backward(few, trips, residuals, g):
    x, table, bias, targets, normaliser = residuals
    plan = _Plan.of(targets, few)
    product = functools.partial(jnp.einsum, preferred_element_type=g.dtype)

    def step(i, state):
        d_x, d_table, d_bias = state
        index, own = plan.piece(i, targets)
        near = _take(x, index)
        lse = jax.lax.dynamic_slice_in_dim(normaliser, i * few, few, axis=1)
        probabilities = jnp.exp(_logits(near, table, bias) - lse[..., None])
        ct = jnp.where(own >= 0, _take(g, index), 0)
        d_logits = (probabilities - (own[..., None] == jnp.arange(bias.size))) * ct[..., None]
        d_bias = d_bias + d_logits.sum((0, 1))
        d_logits = d_logits.astype(x.dtype)
        d_table = d_table + product("btv,btd->vd", d_logits, near)
        d_near = product("btv,vd->btd", d_logits, table.astype(x.dtype))
        return plan.put(d_x, i, d_near), d_table, d_bias

    zeros = lambda array, shape=None: jnp.zeros(shape or array.shape, g.dtype)
    start = zeros(x, (*plan.order.shape, x.shape[2])), zeros(table), zeros(bias)
    d_x, d_table, d_bias = dynamic_loop(0, plan.trips, step, start, mean_trips=trips)
    return plan.back(d_x, targets).astype(x.dtype), d_table.astype(table.dtype), d_bias.astype(bias.dtype), None


_tail_nats.defvjp(_tail_forward, _tail_backward)


def _logits(x, table, bias):
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.einsum("btd,vd->btv", x, table.astype(x.dtype), preferred_element_type=wide) + bias.astype(wide)


def _take(x, index):
    return jnp.take_along_axis(x, index.reshape(*index.shape, *[1] * (x.ndim - 2)), axis=1)


class _Plan(NamedTuple):
    """In which order the positions of every row are looked at: those with a target first."""

    order: Int[Array, "B L"]  # L: the length, filled up to a whole number of pieces
    trips: Int[Array, ""]
    few: int

    @classmethod
    def of(cls, targets, few):
        length = targets.shape[1]
        present, place = targets >= 0, jnp.arange(length, dtype=jnp.int32)
        order = jnp.sort(jnp.where(present, place, place + length), axis=1) % length
        order = jnp.pad(order, ((0, 0), (0, -length % few)), constant_values=length - 1)
        trips = -(-jnp.max(jnp.sum(present, axis=1, dtype=jnp.int32)) // few)
        return cls(order, trips, few)

    def piece(self, i, targets):
        """Positions of the i-th piece of every row, and their targets: -1 where there is none, or not here."""
        index = jax.lax.dynamic_slice_in_dim(self.order, i * self.few, self.few, axis=1)
        inside = i * self.few + jnp.arange(self.few) < targets.shape[1]
        return index, jnp.where(inside, jnp.take_along_axis(targets, index, axis=1), -1)

    def put(self, array, i, piece):
        """Puts the i-th piece into an array in this order."""
        return jax.lax.dynamic_update_slice_in_dim(array, piece, i * self.few, axis=1)

    def back(self, array, targets):
        """An array in this order, in the order of time."""
        batch, length = targets.shape
        rows = jnp.arange(batch)[:, None]
        array = array[:, :length]
        return jnp.zeros_like(array).at[rows, self.order[:, :length]].set(array, unique_indices=True)
