"""What the mixers that need the whole sequence share: Linformer, Nystromformer."""

from typing import Any

import jax.numpy as jnp

from effjax.layers.mixer import State
from effjax.layers.projections import SeparateHeads


class BothSides(SeparateHeads):
    """A mixer for encoders: positions meet through mixtures of the whole sequence, earlier and later.

    Attributes:
      causal: False; True is refused, with the reason.
      rotary: False; a mixture of keys, each turned by its own angle, has no distance from a query.
      and those of `SeparateHeads`.
    """

    causal: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.causal:
            raise ValueError(f"causal=True: {self._needs_everything()}")
        if self.rotary:
            raise ValueError(
                "rotary=True: a mixture of keys, each turned by its own angle, has no distance; only False"
            )

    def refuse_state(self, state):
        """Raises ValueError where a stream is asked for."""
        if state is not None:
            raise ValueError(f"state: {self._needs_everything()}")

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> State:
        raise ValueError(f"causal=False: {self._needs_everything()}")

    def _needs_everything(self):
        return f"{type(self).__name__} mixes the whole sequence before any position sees it: it serves encoders only"
