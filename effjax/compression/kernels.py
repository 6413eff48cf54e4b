"""The kernels of a model that may be made smaller, found by looking at the modules that hold them."""

import re
from dataclasses import dataclass

import flax.linen as nn
import jax

from effjax.errors import UserError
from effjax.layers.dense import Compressible
from effjax.ops.kernels import is_kernel

# What the rules of a configuration are where it has none; the first that matches a path holds.
DEFAULT_RULES = ((r"(^|/)vocabulary/", False), (r"", True))


@dataclass(frozen=True)
class Kernel:
    """A kernel among the parameters.

    Attributes:
      path: such as `stack/period/mixing_0/mixer/query/kernel`; of parameters that are whole collections
        `params/encoder/blocks/…`.
      shape: of one layer's kernel.
      layers: length of the leading axis over layers; 0: there is none.
      axes: those (of one layer's kernel) that are contracted; of an embedding the last one.
    """

    path: str
    shape: tuple[int, ...]
    layers: int
    axes: tuple[int, ...]

    @property
    def is_embedding(self) -> bool:
        """Whether rows are looked up rather than multiplied."""
        return 0 not in self.axes

    def each_layer(self, function):
        """`function` of one layer's kernel as a function of all layers'."""
        return jax.vmap(function) if self.layers else function


def find_kernels(init) -> dict[str, Kernel]:
    """Every kernel that may be quantised or pruned, by its path; nothing is computed.

    Those of norms, positions, biases and convolutions over single channels are none, nor are the small projections that
    choose rather than compute: spans, kernels of dynamic convolutions, random features.

    An axis over layers is what a leaf has beyond the kernel that its module sees inside of a scan, whatever the scan is
    called.

    Args:
      init: parameters as a function of a key, made by Flax modules: those of `params`, or whole collections, one of
        which is `params`.
    """
    found = {}

    def note(function, args, kwargs, context):
        module, result = context.module, function(*args, **kwargs)
        if isinstance(module, Compressible) and context.method_name == "__call__":
            shape = module.get_variable("params", module.kernel_name).shape
            found["/".join((*module.path, module.kernel_name))] = tuple(shape), tuple(module.contracted)
        return result

    with nn.intercept_methods(note):
        # A new function: one that JAX has traced before it does not call again, and nothing would be noted.
        shapes = jax.eval_shape(lambda key: init(key), jax.random.key(0))
    kernels = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        path = path_of(path)
        if (own := found.get(path.removeprefix("params/"))) is not None:
            shape, axes = own
            layers = leaf.shape[0] if leaf.ndim > len(shape) else 0
            kernels[path] = Kernel(path, shape, layers, axes)
    return kernels


def path_of(path) -> str:
    """A path of JAX's as rules match it."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def select(kernels: dict[str, Kernel], rules, *, field: str) -> dict[str, Kernel]:
    """The kernels that rules choose.

    Args:
      kernels: from `find_kernels`.
      rules: pairs (path regex, chosen or not), the first that matches holds and what none matches is left out; `()`:
        `DEFAULT_RULES`, all but the embedding and the read-out.
      field: where the rules come from, for errors.

    Raises:
      UserError: a rule that is no such pair or matches no kernel; or nothing is chosen.
    """
    for rule in rules:
        match rule:
            case (str(pattern), bool()):
                try:
                    matches = [path for path in kernels if re.search(pattern, path)]
                except re.error as error:
                    raise UserError(f"{field}: {pattern!r} is no regex: {error}") from error
                if not matches:
                    raise UserError(f"{field}: {pattern!r} matches none of the kernels {', '.join(kernels)}")
            case _:
                raise UserError(f"{field}: rule {rule!r} is no pair (path regex, True or False)")
    chosen = {path: kernel for path, kernel in kernels.items() if _choice(path, rules or DEFAULT_RULES)}
    if not chosen:
        raise UserError(f"{field}={rules!r} chooses none of the kernels {', '.join(kernels)}")
    return chosen


def _choice(path: str, rules) -> bool:
    return next((chosen for pattern, chosen in rules if re.search(pattern, path)), False)


def map_kernels(params, function, kernels):
    """Parameters with `function(leaf, kernel)` in place of the leaf of every kernel; what stands in a kernel's place
    already (`effjax.ops.kernels`) counts as a leaf."""

    def visit(path, leaf):
        kernel = kernels.get(path_of(path))
        return leaf if kernel is None else function(leaf, kernel)

    return jax.tree_util.tree_map_with_path(visit, params, is_leaf=is_kernel)
