"""Pruning in training, around any optax optimizer: masks live in its state, and what is masked stays exactly 0."""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from effjax.compression.kernels import Kernel, path_of
from effjax.compression.sparsity import cubic_sparsities, kept_counts
from effjax.compression.structure import Structure, keep_greatest, keep_n_of_m
from effjax.errors import UserError

METHODS = ("magnitude", "saliency", "movement")


class PruningState(NamedTuple):
    """The state of `prune`.

    Attributes:
      inner: of the optimizer.
      count: int32, updates made.
      masks: bool arrays, True where a weight lives; nested as the parameters are, pruned kernels only.
      movement: float32, scores summed so far; of "movement", else empty.
    """

    inner: optax.OptState
    count: jax.Array
    masks: dict
    movement: dict


@dataclass(frozen=True)
class Plan:
    """What is pruned, how and when.

    Attributes:
      targets: kernels and their units, from `effjax.compression.structure.structure_of`.
      method: scores of weights w with gradients g: "magnitude" |w|, "saliency" |w g|, "movement" the sum of -w g over
        all updates. A unit's score is the sum of its weights', of saliency the absolute value of the sum of w g.
      distribution: "uniform", "global" or "erk".
      sparsity: share of the units of all targets that is pruned in the end; n:m has its own.
      initial: that of the first pruning, where there are several.
      begin, end, every: prunings take place at updates begin, begin + every, … end, counted from 0, with the sparsity
        of `cubic_sparsities`. n:m prunes at `end` alone.
      counts: units kept, `[prunings, kernels of all layers]` or `[prunings, 1]` (global), int32; follows from the rest.

    Raises UserError where these do not fit.

    Source: schedule: Zhu & Gupta 2017 (1710.01878); saliency: Molchanov et al. 2017 (1611.06440), section 2.2, of heads
      Michel et al. 2019 (1905.10650), section 2.3; movement: Sanh et al. 2020 (2005.07683), section 3, hard and without
      regrowth, since pruned weights are 0.
    """

    targets: dict[str, tuple[Kernel, Structure]]
    method: str = "magnitude"
    distribution: str = "uniform"
    sparsity: float = 0.5
    initial: float = 0.0
    begin: int = 0
    end: int = 0
    every: int = 1
    counts: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        if self.method not in METHODS:
            raise UserError(f"pruning method {self.method!r}; one of {', '.join(METHODS)} is allowed")
        if self.every < 1 or not 0 <= self.begin <= self.end or (self.end - self.begin) % self.every:
            raise UserError(
                f"pruning begin={self.begin}, end={self.end}, every={self.every}: 0 <= begin <= end, and a number of "
                "updates between them that every divides, is allowed"
            )
        object.__setattr__(self, "counts", self._kept())  # the class is frozen

    @property
    def fixed(self) -> bool:
        """Whether the structure says how much is pruned."""
        return any(structure.of for _, structure in self.targets.values())

    def _kept(self) -> np.ndarray:
        shapes, units = [], []
        for kernel, structure in self.targets.values():
            shapes += [kernel.shape] * max(kernel.layers, 1)
            units += [structure.units(kernel)] * max(kernel.layers, 1)
        sparsities = cubic_sparsities(self.sparsity, (self.end - self.begin) // self.every, self.initial)
        return np.array([kept_counts(shapes, units, s, self.distribution) for s in sparsities], np.int32)

    def values(self, params: dict, grads: dict, movement: dict) -> dict:
        """Scores of single weights, by path, before they are summed over units."""
        if self.method == "magnitude":
            return {path: jnp.abs(leaf) for path, leaf in params.items()}
        return movement if self.method == "movement" else {path: params[path] * grads[path] for path in params}

    def masks(self, values: dict, alive: dict, index) -> dict:
        """Masks by path at one of the prunings, within those that hold already."""
        scores = {}
        for path, (kernel, structure) in self.targets.items():
            score = kernel.each_layer(lambda x, k=kernel, s=structure: s.scores(x, k))(values[path])
            scores[path] = jnp.abs(score) if self.method == "saliency" else score
        return self.masks_by_unit(scores, alive, index)

    def masks_by_unit(self, unit_scores: dict, alive: dict, index) -> dict:
        """As `masks`, from a score of each unit."""
        scores = {}
        for path, (kernel, structure) in self.targets.items():
            living = kernel.each_layer(lambda x, k=kernel, s=structure: s.scores(x.astype(jnp.float32), k))(alive[path])
            scores[path] = jnp.where(living > 0, unit_scores[path], -jnp.inf)
        if self.fixed:
            kept = {path: self._n_of_m(path, score) for path, score in scores.items()}
        elif self.distribution == "global":
            flat = keep_greatest(jnp.concatenate([score.reshape(-1) for score in scores.values()]), self._at(index)[0])
            ends = np.cumsum([score.size for score in scores.values()])[:-1]
            parts = zip(scores.items(), jnp.split(flat, ends))
            kept = {path: part.reshape(score.shape) for (path, score), part in parts}
        else:
            kept, start = {}, 0
            for path, score in scores.items():
                kernel = self.targets[path][0]
                counts = self._at(index)[start : start + max(kernel.layers, 1)]
                kept[path] = kernel.each_layer(keep_greatest)(score, counts if kernel.layers else counts[0])
                start += max(kernel.layers, 1)
        masks = {}
        for path, (kernel, structure) in self.targets.items():
            mask = kernel.each_layer(lambda x, k=kernel, s=structure: s.mask(x, k))(kept[path])
            masks[path] = mask & alive[path]
        return masks

    def _n_of_m(self, path, score):
        kernel, structure = self.targets[path]
        return kernel.each_layer(lambda x: keep_n_of_m(x, structure.keep, structure.of))(score)

    def _at(self, index):
        return jnp.asarray(self.counts)[index]


def prune(optimizer: optax.GradientTransformation, plan: Plan) -> optax.GradientTransformation:
    """The optimizer, after each update of which what is masked is exactly 0.

    An update of a masked weight w is -w whatever the optimizer says: momentum and weight decay cannot revive it.

    Args:
      optimizer: any; it sees the gradients as they are.
      plan: what is pruned, how and when.
    """

    def init(params):
        own = targets_of(params, plan.targets)
        masks = {path: jnp.ones(leaf.shape, bool) for path, leaf in own.items()}
        movement = {path: jnp.zeros(leaf.shape) for path, leaf in own.items()} if plan.method == "movement" else {}
        return PruningState(optimizer.init(params), jnp.int32(0), nested(masks), nested(movement))

    def update(grads, state, params=None):
        updates, inner = optimizer.update(grads, state.inner, params)
        own, gradients = targets_of(params, plan.targets), targets_of(grads, plan.targets)
        moved = targets_of(updates, plan.targets)
        alive, movement = flat(state.masks), flat(state.movement)
        movement = {path: score - own[path] * gradients[path] for path, score in movement.items()}
        index = (state.count - plan.begin) // plan.every
        due = (state.count >= plan.begin) & (state.count <= plan.end)
        due &= (state.count - plan.begin) % plan.every == 0
        if plan.fixed:
            due &= state.count == plan.end

        def pruned(alive):
            after = {path: own[path] + moved[path] for path in own}
            weights = after if plan.method == "magnitude" else own
            return plan.masks(plan.values(weights, gradients, movement), alive, index)

        masks = jax.lax.cond(due, pruned, lambda alive: alive, alive)
        live = {path: jnp.where(masks[path], moved[path], -own[path]) for path in own}
        replace = lambda path, leaf: live.get(path_of(path), leaf)
        updates = jax.tree_util.tree_map_with_path(replace, updates)
        return updates, PruningState(inner, state.count + 1, nested(masks), nested(movement))

    return optax.GradientTransformation(init, update)


def prune_once(params, plan: Plan, grads=None):
    """Parameters pruned at once to the plan's last sparsity; `grads` for saliency.

    Returns:
      `(params, masks)`, masks by path.
    """
    own = targets_of(params, plan.targets)
    gradients = None if grads is None else targets_of(grads, plan.targets)
    alive = {path: jnp.ones(leaf.shape, bool) for path, leaf in own.items()}
    masks = plan.masks(plan.values(own, gradients, {}), alive, len(plan.counts) - 1)
    return masked(params, masks), masks


def masked(params, masks: dict):
    """Parameters with zeros where masks, by path, are False."""
    mask = lambda path, leaf: jnp.where(masks[path_of(path)], leaf, 0) if path_of(path) in masks else leaf
    return jax.tree_util.tree_map_with_path(mask, params)


def sparsity_of(params, kernels) -> float:
    """Share of zeros among the weights of the given kernels (paths)."""
    own = targets_of(params, kernels).values()
    return sum(int(jnp.sum(leaf == 0)) for leaf in own) / sum(leaf.size for leaf in own)


def targets_of(tree, targets) -> dict[str, jax.Array]:
    """The leaves of the targets by path, in their order."""
    leaves = {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    return {path: leaves[path] for path in targets}


def nested(by_path: dict) -> dict:
    """`{"a/b": x}` as `{"a": {"b": x}}`."""
    return traverse_util.unflatten_dict(by_path, sep="/")


def flat(tree: dict) -> dict:
    """The inverse of `nested`."""
    return traverse_util.flatten_dict(tree, sep="/")
