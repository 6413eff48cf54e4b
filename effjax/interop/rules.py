"""Which foreign tensor is which parameter: a table of rules, read in both directions, and one error for all misfits."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from effjax.errors import UserError

LISTED = 20  # names of a kind that an error spells out


class Form(NamedTuple):
    """How a foreign tensor holds some of our parameters.

    Attributes:
      ours: `(tensor, shapes of our parameters) -> parameters`.
      theirs: `parameters -> tensor`.
    """

    ours: Callable[[jax.Array, Sequence[tuple[int, ...]]], list]
    theirs: Callable[[Sequence[jax.Array]], jax.Array]


SAME = Form(lambda x, shapes: [x], lambda leaves: leaves[0])
FLAT = Form(lambda x, shapes: [x.reshape(shapes[0])], lambda leaves: leaves[0].reshape(-1))


def linear(inputs: int = 1) -> Form:
    """A matrix `[out, in]`, as torch keeps it, of a kernel whose first `inputs` axes are the input's.

    One for `[D, N, H]` into heads, two for `[N, H, D]` out of them.
    """

    def theirs(leaves):
        (kernel,) = leaves
        return kernel.reshape(math.prod(kernel.shape[:inputs]), -1).T

    return Form(lambda x, shapes: [x.T.reshape(shapes[0])], theirs)


def packed(form: Form) -> Form:
    """Several tensors of a form, one below the other along the first axis."""

    def ours(x, shapes):
        rows = [_shape(form, [shape])[0] for shape in shapes]
        pieces = jnp.split(x, np.cumsum(rows)[:-1], axis=0)
        return [form.ours(piece, [shape])[0] for piece, shape in zip(pieces, shapes, strict=True)]

    return Form(ours, lambda leaves: jnp.concatenate([form.theirs([leaf]) for leaf in leaves]))


def reshaped(*shape: int) -> Form:
    """The same numbers in another foreign shape."""
    return Form(lambda x, shapes: [x.reshape(shapes[0])], lambda leaves: leaves[0].reshape(shape))


@dataclass(frozen=True)
class Rule:
    """One foreign tensor and the parameters it holds.

    Attributes:
      theirs: its name; `{layer}` stands for the number of a layer, `{block}` for that of its block in the period. None:
        the parameter has no counterpart there, and is zero.
      ours: paths of parameters, `{block}` as above; with `{layer}` in their name, parameters have a leading axis over
        the period's repeats.
      form: how it holds them.
      block: the block of the period that the rule is for; None: all of them.
      stack: layers and period of the stack that the rule is about; None: those of the layout.
    """

    theirs: str | None
    ours: str | tuple[str, ...]
    form: Form = SAME
    block: int | None = None
    stack: tuple[int, int] | None = None


@dataclass(frozen=True)
class Layout:
    """A foreign model's tensors beside ours.

    Attributes:
      what: the model, for errors.
      rules: between names without `prefix` and our parameters.
      n_layers, period: of the stack.
      prefix: what all names begin with but those that begin with one of `outside`; files may leave it out.
      outside: beginnings of names that never have the prefix.
      aliases: other names of tensors, which files may hold or leave out: `{alias: name}`.
      ignored: regexes of names that are no parameters of the model: buffers, and heads that have no place here.
    """

    what: str
    rules: tuple[Rule, ...]
    n_layers: int
    period: int
    prefix: str = ""
    outside: tuple[str, ...] = ()
    aliases: Mapping[str, str] | None = None
    ignored: tuple[str, ...] = ()

    def links(self):
        """Every foreign tensor once: `(name, paths, repeat or None, form)`."""
        for rule in self.rules:
            paths = (rule.ours,) if isinstance(rule.ours, str) else rule.ours
            if "{layer}" not in (rule.theirs or ""):
                yield rule.theirs, paths, None, rule.form
                continue
            n_layers, period = rule.stack or (self.n_layers, self.period)
            for layer in range(n_layers):
                repeat, block = divmod(layer, period)
                if rule.block in (None, block):
                    name = rule.theirs.format(layer=layer, block=block)
                    yield name, tuple(path.format(block=block) for path in paths), repeat, rule.form

    def names(self) -> frozenset[str]:
        """Names of all tensors, as in a file."""
        return frozenset(self.full_name(name) for name, *_ in self.links() if name is not None)

    def own_name(self, name: str) -> str:
        """A file's name without the prefix."""
        return name.removeprefix(self.prefix)

    def full_name(self, name: str) -> str:
        """The name in a file."""
        return name if name.startswith(self.outside) else self.prefix + name


def to_ours(layout: Layout, tensors: Mapping[str, np.ndarray], params, *, source: str, dtype=np.float32):
    """Our parameters from foreign tensors.

    Args:
      layout: which tensor is which parameter.
      tensors: by name; read only once all of them are known to fit.
      params: abstract parameters: shapes.
      source: what the tensors come from, for errors.
      dtype: of the result.

    Returns:
      Nested dict of numpy arrays.

    Raises:
      UserError: tensors that are unknown, missing or misshapen, all in one message.
    """
    shapes = {path: leaf.shape for path, leaf in flatten_dict(params, sep="/").items()}
    given, problems = {}, {"missing": [], "unknown": [], "misshapen": []}
    aliases = dict(layout.aliases or {})
    for name, tensor in tensors.items():
        if not any(re.search(pattern, name) for pattern in layout.ignored):
            given[layout.own_name(name)] = tensor
    for alias, name in aliases.items():
        other = given.pop(alias, None)
        if other is not None and name not in given:
            given[name] = other
        elif other is not None and not np.array_equal(_loaded(other), _loaded(given[name])):
            problems["misshapen"].append(f"{alias} is another than {name}, which it must share")
    links = list(layout.links())
    problems["unknown"] = sorted(set(given) - {name for name, *_ in links})
    for name, paths, repeat, form in links:
        if name is None:
            continue
        if name not in given:
            problems["missing"].append(name)
            continue
        expected = _shape(form, [_own_shape(shapes, path, repeat) for path in paths])
        if tuple(given[name].shape) != expected:
            problems["misshapen"].append(f"{name} {list(given[name].shape)}, expected {list(expected)}")
        elif jnp.dtype(given[name].dtype).kind not in "fV":  # V: bfloat16
            problems["misshapen"].append(f"{name} holds {given[name].dtype}, expected floating-point numbers")
    if any(problems.values()):
        found = "; ".join(f"{kind}: {_listed(names)}" for kind, names in problems.items() if names)
        raise UserError(f"{source}: the tensors are not those of {layout.what}: {found}")

    pieces = {}
    for name, paths, repeat, form in links:
        own = [_own_shape(shapes, path, repeat) for path in paths]
        if name is None:
            leaves = [np.zeros(shape, dtype) for shape in own]
        else:
            leaves = form.ours(_loaded(given[name]).astype(dtype), own)
        for path, leaf in zip(paths, leaves, strict=True):
            pieces.setdefault(path, {})[repeat] = np.asarray(leaf, dtype)
    if set(pieces) != set(shapes):
        raise ValueError(f"rules and parameters differ: {sorted(set(pieces) ^ set(shapes))}")
    joined = {
        path: found[None] if None in found else np.stack([found[repeat] for repeat in range(len(found))])
        for path, found in pieces.items()
    }
    return unflatten_dict(joined, sep="/")


def to_theirs(layout: Layout, params) -> dict[str, np.ndarray]:
    """Foreign tensors from our parameters.

    Raises:
      UserError: a parameter that has no counterpart there and is not zero.
    """
    flat = {path: np.asarray(leaf) for path, leaf in flatten_dict(params, sep="/").items()}
    tensors, seen = {}, set()
    for name, paths, repeat, form in layout.links():
        seen.update(paths)
        leaves = [flat[path] if repeat is None else flat[path][repeat] for path in paths]
        if name is not None:
            tensors[layout.full_name(name)] = np.ascontiguousarray(form.theirs(leaves))
        elif any(leaf.any() for leaf in leaves):
            raise UserError(f"{', '.join(paths)} is not zero, and {layout.what} has no place for it")
    if seen != set(flat):
        raise ValueError(f"rules and parameters differ: {sorted(seen ^ set(flat))}")
    return tensors


def smallest_period(items: Sequence) -> int:
    """Length of the shortest beginning that gives all of a sequence when repeated."""
    for period in range(1, len(items) + 1):
        if len(items) % period == 0 and list(items) == list(items[:period]) * (len(items) // period):
            return period
    raise ValueError("an empty sequence has no period")


def _own_shape(shapes, path, repeat):
    return shapes[path] if repeat is None else shapes[path][1:]


def _shape(form: Form, shapes) -> tuple[int, ...]:
    """The foreign tensor's shape for shapes of ours."""
    leaves = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.eval_shape(lambda *leaves: form.theirs(leaves), *leaves).shape


def _loaded(tensor) -> np.ndarray:
    return np.asarray(tensor)


def _listed(names: list[str]) -> str:
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")
