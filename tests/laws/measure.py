"""How close two pytrees are, and the layers and arrays that the laws share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

D_MODEL = 16
# Laws about masks look at sequences of one length, 2 chunks and a bit: what they have in common is compiled once.
LENGTH = 21


def relative_rms(ours, theirs) -> float:
    """Root mean square of the difference over that of `theirs`, the greatest over the leaves."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape, (a.shape, b.shape)
        assert np.isfinite(a).all()
        worst = max(worst, float(np.sqrt(np.mean((a - b) ** 2)) / max(np.sqrt(np.mean(b**2)), 1e-30)))
    return worst


def relative_norm(ours, theirs) -> float:
    """Euclidean norm of the difference of two whole pytrees over that of `theirs`."""
    flat = lambda tree: np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)])
    return float(np.linalg.norm(flat(ours) - flat(theirs)) / np.linalg.norm(flat(theirs)))


def value_and_grads(fn, arrays, cotangent):
    """The output of `fn(arrays)`, and the gradient of `sum(output * cotangent)`, compiled."""
    return with_gradients(fn)(arrays, cotangent)


def with_gradients(fn):
    """The compiled `run(arrays, cotangent, **rules) -> (output, gradients)` of `fn(arrays, **rules)`."""

    @jax.jit
    def run(arrays, cotangent, **rules):
        out, pullback = jax.vjp(lambda arrays: fn(arrays, **rules), arrays)
        return out, pullback(jnp.asarray(cotangent, out.dtype))[0]

    return run


@functools.cache
def family_op(family, implementation, causal, length, batch=2):
    """`run(arrays, cotangent, padding_mask=…, segment_ids=…)` of a family's op; laws share what has been compiled."""
    _, frozen = family.inputs(length, batch=batch)
    return with_gradients(functools.partial(run_op, family.op, frozen, implementation, causal))


def run_op(op, frozen, implementation, causal, arrays, **rules):
    return op(arrays, frozen, causal=causal, implementation=implementation, **rules)


def masks(family, padding_mask=None, segment_ids=None, batch=2, length=LENGTH) -> dict:
    """Every mask that the family knows, as arrays; all there and one document unless told otherwise."""
    rules = {"padding_mask": np.ones((batch, length), bool) if padding_mask is None else padding_mask}
    if family.segments:
        rules["segment_ids"] = np.zeros((batch, length), np.int32) if segment_ids is None else segment_ids
    return rules


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


@functools.cache
def make_layer(family, **kwargs):
    """A small layer of a family and its parameters."""
    layer = family.layer(d_model=D_MODEL, n_heads=2, head_dim=8, **kwargs)
    params = jax.jit(layer.init)(jax.random.key(0), jnp.zeros((1, 4, D_MODEL)))
    return layer, params


def tokens(shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*shape, D_MODEL)), dtype)
