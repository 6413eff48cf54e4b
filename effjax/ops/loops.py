"""Loops whose number of steps is only known at run time."""

from collections.abc import Callable
from typing import Any

import jax


def dynamic_loop(lo: Any, hi: Any, body: Callable[[Any, Any], Any], init: Any, *, mean_trips: float) -> Any:
    """`lax.fori_loop` with traced bounds, labelled with the number of steps it takes on average.

    Such a loop can skip the blocks that a rule leaves empty, but nobody can read its cost off the program: the FLOP
    counter multiplies the body by the label. Reverse-mode differentiation does not pass through it, so it lives inside
    a `custom_vjp`.

    Args:
      lo: first index, a scalar.
      hi: one past the last index, a scalar; not above lo means no step.
      body: (index, state) -> state.
      init: state before the first step.
      mean_trips: expected value of max(hi - lo, 0) over the calls of this loop.

    Returns:
      The state after the last step.
    """
    with jax.named_scope(f"mean_trips={mean_trips:g}"):
        return jax.lax.fori_loop(lo, hi, body, init)
