"""How much the loss of training data depends on each weight: gradients, batch by batch."""

import jax
import jax.numpy as jnp

from effjax.compression.kernels import path_of
from effjax.compression.prune import Plan


def unit_importance(task, params, batches, plan: Plan) -> dict[str, jax.Array]:
    """`E |sum over a unit of w dL/dw|`, the mean over batches, of each layer's units divided by their l2 norm.

    For a head it is `E |dL/dxi|`, xi a factor on the head's output, since the kernel that reads it is linear.

    Args:
      task: gives `loss` and `initial_carry`.
      params: float parameters.
      batches: of training data.
      plan: its targets and their units.

    Returns:
      By path, `[layers, units, 1]` or `[units, 1]`.

    Source: Michel et al. 2019 (1905.10650), section 2.3.
    """

    @jax.jit
    def scores(params, batch, carry):
        grads, (_, carry) = jax.grad(task.loss, has_aux=True)(params, batch, carry)
        leaves = jax.tree_util.tree_leaves_with_path(jax.tree.map(jnp.multiply, params, grads))
        products = {path_of(path): leaf for path, leaf in leaves}
        found = {}
        for path, (kernel, structure) in plan.targets.items():
            score = kernel.each_layer(lambda x, k=kernel, s=structure: s.scores(x, k))(products[path])
            found[path] = jnp.abs(score)
        return found, carry

    total, carry = None, task.initial_carry(task.config.batch_size)
    for batch in batches:
        found, carry = scores(params, batch, carry)
        total = found if total is None else jax.tree.map(jnp.add, total, found)
    norm = lambda x: x / jnp.maximum(jnp.linalg.norm(x.reshape(-1)), 1e-30)
    return {path: kernel.each_layer(norm)(total[path]) for path, (kernel, _) in plan.targets.items()}


def alike_in_all_layers(importance: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """For the units of one number in every layer the same importance, the sum over all layers.

    Args:
      importance: by path, as `unit_importance` gives it, of kernels with as many units.

    Returns:
      The same paths and shapes.
    """
    layers = [x.reshape(-1, *x.shape[-2:]) for x in importance.values()]
    total = jnp.concatenate(layers).sum(0)
    return {path: jnp.broadcast_to(total, x.shape) for path, x in importance.items()}
