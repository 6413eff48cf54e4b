"""The ordinary residual stack, in the block protocol of `effjax.ops.reversible`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Float

Half = Callable[..., tuple[Array, Any]]


def residual_stack(
    blocks: Sequence[tuple[Half, ...]],
    params: Sequence[tuple[Any, ...]],
    x: Float[Array, "B T D"],
    *,
    consts: Any = (),
    states: Sequence[tuple[Any, ...]] | None = None,
    keys: Any = None,
    add: bool = True,
    remat: bool = False,
) -> tuple[Float[Array, "B T D"], Any]:
    """`x <- x + f(x); x <- x + g(x)` for every block, scanned over the repeats of the period.

    With `add=False`, for blocks that hold their residual sums (post-norm), `x <- f(x); x <- g(x)`.

    Args:
      blocks, params, consts, states, keys: as in `effjax.ops.reversible.reversible_stack`, except that a block may
        have any number of parts, each with a sum of its own, and that gradients flow to `states`.
      x: the stream, in the dtype in which residuals accumulate.
      add: whether the stack adds; see above.
      remat: recompute each block in the backward pass instead of keeping its activations.

    Returns:
      The stream after the last block, and what the blocks saved: per block of the period a pair, each leaf with a
      leading axis over repeats.

    Source: He et al. 2016 (1603.05027); pre-norm blocks as in Child et al. 2019 (1904.10509).
    """
    if states is None:
        states = [(None,) * len(halves) for halves in blocks]

    def block(halves, x, params, states, keys):
        side = []
        for j, half in enumerate(halves):
            y, kept = half(params[j], x, consts, states[j], None if keys is None else keys[j], None)
            x = x + y.astype(x.dtype) if add else y.astype(x.dtype)
            side.append(kept)
        return x, tuple(side)

    # Block by block rather than period by period: a period may hold all the layers of a model.
    run = [jax.checkpoint(partial(block, halves)) if remat else partial(block, halves) for halves in blocks]

    def period(x, per_repeat):
        params, states, keys = per_repeat
        saved = []
        for i, block in enumerate(run):
            x, side = block(x, params[i], states[i], None if keys is None else keys[i])
            saved.append(side)
        return x, tuple(saved)

    return jax.lax.scan(period, x, (tuple(params), tuple(states), keys))
