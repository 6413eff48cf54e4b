"""One function of a head, run over all heads of all examples in the way that suits the platform."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from effjax.ops.platforms import by_platform


def over_heads(head: Callable[..., Any], implementation: str | None, *args: Any) -> Any:
    """Maps a function of one head over arrays with leading axes [B, N].

    Args:
      head: function of arrays [...] of one head of one example.
      implementation: "blocked": one head after the other, whose arrays then stay in the CPU's cache; "batched": all at
        once, for accelerators and sharded axes; None: the first on a CPU, the second elsewhere.
      *args: pytrees of arrays [B, N, ...].

    Returns:
      What head returns, with leading axes [B, N].
    """

    def blocked(*args):
        return lax.map(lambda example: lax.map(lambda x: head(*x), example), args)

    def batched(*args):
        return jax.vmap(jax.vmap(head))(*args)

    if implementation is not None:
        return {"blocked": blocked, "batched": batched}[implementation](*args)
    return by_platform(*args, cpu=blocked, default=batched)
