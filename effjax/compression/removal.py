"""Attention heads and hidden neurons taken out of a model that has silenced them: the same function, narrower."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from effjax.compression.kernels import Kernel, path_of
from effjax.compression.structure import reads
from effjax.errors import UserError
from effjax.tasks import make_task
from effjax.tasks.task import Task

FIELDS = {"heads": "n_heads", "neurons": "d_ff"}
INSIDE = {"heads": "/out/kernel", "neurons": "/outer/kernel"}


def living(params, kernels: dict[str, Kernel], kind: str) -> dict[str, np.ndarray]:
    """Which heads or neurons are read by anything but zeros: bool `[layers, units]` for each kernel that reads them."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        kernel = kernels.get(path_of(path))
        if kernel is not None and reads(kernel) == kind:
            leaf = np.asarray(leaf) if kernel.layers else np.asarray(leaf)[None]
            found[kernel.path] = (leaf != 0).any(tuple(range(2, leaf.ndim)))
    return found


@dataclass(frozen=True)
class Narrower:
    """What a model would be without what its layers have silenced.

    Attributes:
      task: that of its configuration.
      before, after: heads or neurons of a layer.
      kept: those that stay, by the prefix of a layer's parameters, int `[layers, after]`.
    """

    task: Task
    before: int
    after: int
    kept: dict[str, np.ndarray]

    def owner(self, path: str) -> str | None:
        """The prefix of the layers to which a parameter belongs; None where it belongs to the model."""
        return next((prefix for prefix in self.kept if path.startswith(prefix)), None)


def narrower(config, params, kernels: dict[str, Kernel], kind: str) -> Narrower | None:
    """The narrower model, None where nothing is silent everywhere; arguments and errors as of `remove`."""
    alive, field = living(params, kernels, kind), FIELDS[kind]
    # A Conformer's d_ff=0 is four times its width.
    before = config.model[field] or next((mask.shape[1] for mask in alive.values()), 0)
    if not alive or any(mask.shape[1] != before for mask in alive.values()):
        raise UserError(f"config.model.{field}={before} is not what the kernels of this model read: nothing is removed")
    after = max(1, max(int(mask.sum(1).max()) for mask in alive.values()))
    if after == before:
        return None
    narrow = config.copy_and_resolve_references().unlock()
    narrow.model[field] = after
    # The living first, then silent ones to fill up the layers that have fewer, each in their order.
    order = {path: np.sort(np.argsort(~mask, axis=1, kind="stable")[:, :after]) for path, mask in alive.items()}
    kept = {path.removesuffix(INSIDE[kind]) + "/": indices for path, indices in order.items()}
    return Narrower(make_task(narrow.lock()), before, after, kept)


def shared_by_layers(config, params, kernels: dict[str, Kernel], kind: str) -> list[str]:
    """Parameters of the model, not of a layer, that lose heads or neurons: all layers have to silence the same ones.

    Transformer-XL's biases are such, of which all layers have one. Arguments and errors as of `remove`.
    """
    narrow = narrower(config, params, kernels, kind)
    if narrow is None:
        return []
    leaves = zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(narrow.task.abstract_params), strict=True)
    changed = [path_of(path) for (path, leaf), like in leaves if leaf.shape != like.shape]
    return [path for path in changed if narrow.owner(path) is None]


def remove(config, params, kernels: dict[str, Kernel], kind: str):
    """Takes out what no layer needs.

    All layers of a model are as wide as each other: each loses as many as the one that has the fewest silent ones.
    Which axes of which parameters count heads or neurons is seen from the shapes of the narrower model.

    Args:
      config: of the run.
      params: with zeros where heads or neurons are read that are silent.
      kernels: all of the model, from `find_kernels`.
      kind: "heads" or "neurons".

    Returns:
      `(config, params)` of the narrower model; the same where nothing is silent everywhere.

    Raises:
      UserError: parameters that all layers share have heads, of which the layers do not silence the same; or the family
        tells its heads apart by their number, so that the narrower model computes something else.
    """
    narrow = narrower(config, params, kernels, kind)
    if narrow is None:
        return config, params

    def take(path, leaf, like):
        if leaf.shape == like.shape:
            return leaf
        path = path_of(path)
        axes = [i for i, sizes in enumerate(zip(leaf.shape, like.shape)) if sizes[0] != sizes[1]]
        if leaf.ndim != like.ndim or [(leaf.shape[i], like.shape[i]) for i in axes] != [(narrow.before, narrow.after)]:
            raise UserError(
                f"{path} of shape {leaf.shape} would have {like.shape} with {FIELDS[kind]}={narrow.after}: not possible"
            )
        owner = narrow.owner(path)
        if owner is None:  # shared by all layers
            indices = np.concatenate(list(narrow.kept.values()))
            if (indices != indices[:1]).any():
                raise UserError(
                    f"{path} is shared by layers that do not silence the same {kind}: not possible; silenced and "
                    "removed in one go they would be the same"
                )
            return jnp.take(leaf, indices[0], axis=axes[0])
        indices = narrow.kept[owner]
        if leaf.shape[0] != len(indices):
            return jnp.take(leaf, indices[0], axis=axes[0])
        return jnp.stack([jnp.take(own, chosen, axis=axes[0] - 1) for own, chosen in zip(leaf, indices)])

    removed = jax.tree_util.tree_map_with_path(take, params, narrow.task.abstract_params)
    _check_same_function(((make_task(config), params), (narrow.task, removed)), kind)
    return narrow.task.config, removed


def _check_same_function(models, kind) -> None:
    """Raises UserError where the losses of random inputs differ by more than rounding."""
    losses = []
    for task, params in models:
        rng = np.random.default_rng(0)
        shapes = task.abstract_batch()
        batch = {name: jnp.asarray(rng.integers(0, 2, like.shape), like.dtype) for name, like in shapes.items()}
        for name in batch:
            if name.endswith("_lengths"):  # of the rows of `inputs` or `labels`: whole, or there is no loss to compare
                batch[name] = jnp.full_like(batch[name], batch[name.removesuffix("_lengths") + "s"].shape[1])
        carry = task.initial_carry(task.config.batch_size)
        losses.append(float(jax.jit(lambda w, b, c, task=task: task.loss(w, b, c)[0])(params, batch, carry)))
    if not np.isclose(*losses, rtol=1e-5):
        raise UserError(
            f"with fewer {kind} this model computes something else (loss {losses[0]:.6f}, then {losses[1]:.6f}): the "
            "family tells them apart by their number, as hashing and patterns by head do; keep them masked"
        )
