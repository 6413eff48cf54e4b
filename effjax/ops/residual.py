"""The ordinary residual stack, in the block protocol of `effjax.ops.reversible`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import Array, Float

Half = Callable[..., tuple[Array, Any]]


def residual_stack(
    blocks: Sequence[tuple[Half, Half]],
    params: Sequence[tuple[Any, Any]],
    x: Float[Array, "B T D"],
    *,
    consts: Any = (),
    states: Sequence[tuple[Any, Any]] | None = None,
    keys: Any = None,
    add: bool = True,
    remat: bool = False,
) -> tuple[Float[Array, "B T D"], Any]:
    """`x <- x + f(x); x <- x + g(x)` for every block, scanned over the repeats of the period.

    With `add=False`, for blocks that hold their residual sums (post-norm), `x <- f(x); x <- g(x)`.

    Args:
      blocks, params, consts, states, keys: as in `effjax.ops.reversible.reversible_stack`.
      x: the stream, in the dtype in which residuals accumulate.
      add: whether the stack adds; see above.
      remat: recompute each period in the backward pass instead of keeping its activations.

    Returns:
      The stream after the last block, and what the blocks saved: per block of the period a pair, each leaf with a
      leading axis over repeats.

    Source: He et al. 2016 (1603.05027); pre-norm blocks as in Child et al. 2019 (1904.10509).
    """
    if states is None:
        states = [(None, None)] * len(blocks)

    def period(x, per_repeat):
        params, states, keys = per_repeat
        saved = []
        for i, halves in enumerate(blocks):
            side = []
            for j, half in enumerate(halves):
                y, kept = half(params[i][j], x, consts, states[i][j], None if keys is None else keys[i, j], None)
                x = x + y.astype(x.dtype) if add else y.astype(x.dtype)
                side.append(kept)
            saved.append(tuple(side))
        return x, tuple(saved)

    if remat:
        period = jax.checkpoint(period)
    return jax.lax.scan(period, x, (tuple(params), tuple(states), keys))
