"""What is pruned as one: single weights, n of m neighbours, blocks, attention heads, hidden neurons."""

import math
import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from effjax.compression.kernels import Kernel
from effjax.errors import UserError


@dataclass(frozen=True)
class Structure:
    """The units of a kernel, seen as a matrix `[K, M]` of contracted values and outputs.

    Attributes:
      block: rows and columns of a unit.
      keep, of: "n:m": of each m neighbours along K the n greatest are kept; 0: any units may be.
    """

    block: tuple[int, int] = (1, 1)
    keep: int = 0
    of: int = 0

    def units(self, kernel: Kernel) -> int:
        """Units of one layer's kernel."""
        rows, columns = matrix_shape(kernel)
        return rows * columns // math.prod(self.block)

    def scores(self, values: Float[Array, "..."], kernel: Kernel) -> Float[Array, "G H"]:
        """Sums of the values of one layer's kernel over each unit, `[K / rows, M / columns]`."""
        rows, columns = matrix_shape(kernel)
        r, c = self.block
        return values.reshape(rows // r, r, columns // c, c).sum((1, 3))

    def mask(self, kept: Bool[Array, "G H"], kernel: Kernel) -> Bool[Array, "..."]:
        """The kernel's mask of its units'."""
        return jnp.repeat(jnp.repeat(kept, self.block[0], 0), self.block[1], 1).reshape(kernel.shape)


def matrix_shape(kernel: Kernel) -> tuple[int, int]:
    """K and M."""
    rows = math.prod(kernel.shape[axis] for axis in kernel.axes)
    return rows, math.prod(kernel.shape) // rows


def structure_of(name: str, kernels: dict[str, Kernel]) -> dict[str, tuple[Kernel, Structure]]:
    """The kernels that a structure prunes and their units; of heads and neurons those which read them.

    Args:
      name: "weights", "n:m" such as "2:4", "block:RxC", "heads" or "neurons".
      kernels: those that rules choose.

    Raises:
      UserError: no such structure; one that does not divide a kernel, or that none of them has.
    """
    if name in ("heads", "neurons"):
        chosen = {path: kernel for path, kernel in kernels.items() if reads(kernel) == name}
        if not chosen:
            raise UserError(f"pruning structure {name!r}: none of the kernels {', '.join(kernels)} reads any")
        width = lambda kernel: kernel.shape[1] if name == "heads" else 1
        return {path: (kernel, Structure((width(kernel), kernel.shape[-1]))) for path, kernel in chosen.items()}
    matches = {path: kernel for path, kernel in kernels.items() if not kernel.is_embedding}
    if name == "weights":
        return {path: (kernel, Structure()) for path, kernel in matches.items()}
    if found := re.fullmatch(r"(\d+):(\d+)", name):
        keep, of = map(int, found.groups())
        if not 1 <= keep <= of:
            raise UserError(f"pruning structure {name!r}; n:m with 1 <= n <= m is allowed")
        for path, kernel in matches.items():
            if matrix_shape(kernel)[0] % of:
                raise UserError(
                    f"pruning structure {name!r}: {of} does not divide the {matrix_shape(kernel)[0]} contracted values "
                    f"of {path}; leave it out by config.pruning.rules"
                )
        return {path: (kernel, Structure(keep=keep, of=of)) for path, kernel in matches.items()}
    if found := re.fullmatch(r"block:(\d+)x(\d+)", name):
        block = tuple(map(int, found.groups()))
        for path, kernel in matches.items():
            if 0 in block or any(size % side for size, side in zip(matrix_shape(kernel), block)):
                raise UserError(f"pruning structure {name!r} does not divide {path}, {matrix_shape(kernel)}")
        return {path: (kernel, Structure(block)) for path, kernel in matches.items()}
    raise UserError(f"pruning structure {name!r}; weights, n:m, block:RxC, heads or neurons is allowed")


def reads(kernel: Kernel) -> str:
    """ "heads" or "neurons" where a kernel is what reads them, else ""."""
    if kernel.path.endswith("out/kernel") and len(kernel.axes) == 2:
        return "heads"
    return "neurons" if re.search(r"(^|/)feed_forward(_\d+)?/outer/kernel$", kernel.path) else ""


def keep_greatest(scores: Float[Array, "..."], count) -> Bool[Array, "..."]:
    """Exactly `count` True, where scores are greatest; of equal ones the first."""
    order = jnp.argsort(-scores.reshape(-1), stable=True)
    ranks = jnp.zeros(order.size, jnp.int32).at[order].set(jnp.arange(order.size, dtype=jnp.int32))
    return (ranks < count).reshape(scores.shape)


def keep_n_of_m(scores: Float[Array, "K M"], keep: int, of: int) -> Bool[Array, "K M"]:
    """Of each `of` neighbours along the first axis the `keep` greatest.

    Source: Mishra et al. 2021 (2104.08378), section 3.
    """
    groups = scores.reshape(-1, of, scores.shape[1]).swapaxes(1, 2)
    kept = jax.vmap(jax.vmap(lambda group: keep_greatest(group, keep)))(groups)
    return kept.swapaxes(1, 2).reshape(scores.shape)
