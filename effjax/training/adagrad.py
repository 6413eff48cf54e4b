"""Adagrad whose learning rate, not whose gradient, is clipped: tensor by tensor, layer by layer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class AdagradState(NamedTuple):
    """Sums of squared gradients, shaped like the parameters."""

    sums: Any


def scale_by_adagrad(*, eps: float = 1e-10, tensor_clip: float = 0.0) -> optax.GradientTransformation:
    """Adagrad from sums that start at 0, with smaller steps for tensors whose gradient is large.

        a <- a + g^2;    u = min(1, c / |g|) g / (sqrt(a) + eps)

    `|g|` is the Euclidean norm of one tensor of one layer. The sums take in the gradient as it is, so that a clipped
    step is as short as the rule says whatever came before: clipping the gradient first would cancel out in `u`.

    Args:
      eps: added to the root.
      tensor_clip: c; 0 for no clipping.

    Returns:
      A transformation of gradients into updates, before the learning rate.

    Source: Duchi et al. 2011; the rule: Sukhbaatar et al. 2019 (1905.07799), `adagrad_with_grad_clip.py` of its code.
    """

    def update_fn(grads, state, params=None):
        del params
        sums = jax.tree.map(lambda a, g: a + g * g, state.sums, grads)

        def update(path, g, a):
            factor = jnp.minimum(1.0, tensor_clip / (tensor_norms(path, g) + 1e-10)) if tensor_clip else 1.0
            return factor * g / (jnp.sqrt(a) + eps)

        return jax.tree_util.tree_map_with_path(update, grads, sums), AdagradState(sums)

    return optax.GradientTransformation(lambda params: AdagradState(jax.tree.map(jnp.zeros_like, params)), update_fn)


def tensor_norms(path, array: jax.Array) -> jax.Array:
    """The norm of a tensor; of each layer's own where one array holds those of a stack, whose first axis they are.

    Args:
      path: of the parameter, as `jax.tree_util` gives it.
      array: the parameter, its gradient or its update.

    Returns:
      A scalar, or `[repeats, 1, …]`.
    """
    in_stack = any(getattr(part, "key", None) == "period" for part in path)
    axes = tuple(range(1 if in_stack else 0, array.ndim))
    return jnp.sqrt(jnp.sum(jnp.square(array), axes, keepdims=in_stack))
