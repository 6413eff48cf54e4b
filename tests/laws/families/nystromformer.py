"""Nystrom attention through a few landmarks."""

import jax
import jax.numpy as jnp
import numpy as np

from effjax.layers import NystromAttention
from effjax.ops.nystrom import nystrom_attention
from tests.laws.families.family import WIDTH, Family, on_arrays

LANDMARKS = 3


def one_head(q, k, v, valid):
    """The equation for the positions that are there, by numpy's means of equal stretches and plain matrices."""
    here = np.flatnonzero(valid)
    if not len(here):
        return jnp.zeros_like(q)
    stretch = np.arange(len(here)) * LANDMARKS // len(here)
    marks = lambda x: jnp.stack([x[here[stretch == s]].mean(0) for s in np.unique(stretch)])
    weights = lambda a, b: jax.nn.softmax(a @ b.T / np.sqrt(WIDTH))
    between = weights(marks(q), marks(k))
    inverse, identity = between.T / between.sum(0).max(), np.eye(len(between))
    for _ in range(6):
        step = between @ inverse
        inverse = inverse @ (13 * identity - step @ (15 * identity - step @ (7 * identity - step))) / 4
    return weights(q, marks(k)) @ inverse @ weights(marks(q), k[here]) @ v[here]


def oracle(arrays, frozen, *, causal, padding_mask=None):
    batch, length, heads, _ = arrays["q"].shape
    valid = np.ones((batch, length), bool) if padding_mask is None else np.asarray(padding_mask)
    of = lambda b, n: one_head(*(arrays[name][b, :, n] for name in ("q", "k", "v")), valid[b])
    return jnp.stack([jnp.stack([of(b, n) for n in range(heads)], axis=1) for b in range(batch)])


def op(arrays, frozen, **rules):
    return nystrom_attention(**arrays, n_landmarks=LANDMARKS, **rules)


NYSTROMFORMER = Family(
    name="nystromformer",
    sequences=("v", "q", "k"),
    op=on_arrays(op),
    oracle=oracle,
    layer=lambda **kwargs: NystromAttention(**dict(n_landmarks=LANDMARKS, kernel_size=5) | kwargs),
    causal=False,  # every landmark is a mean over a stretch of the sequence, whatever the document
    segments=False,
)
