"""Nystromformer: attention through landmarks, with a convolution of the values beside it."""

import flax.linen as nn

from effjax.layers.both_sides import BothSides
from effjax.layers.mixer import at_least_one, neutralise
from effjax.ops.convolution import light_conv
from effjax.ops.nystrom import INVERSE_STARTS, nystrom_attention


class NystromAttention(BothSides):
    """Multi-head Nystrom attention, plus a convolution of the values along time, one kernel for each head.

    Attributes:
      n_landmarks: stretches of the sequence whose means queries and keys meet through.
      iterations: of the inverse.
      inverse_start: "matrix" or "batch", see `effjax.ops.nystrom.nystrom_attention`.
      kernel_size: taps of the convolution; 0: none.
      and those of `BothSides`; implementations are those of `effjax.ops.full.full_attention`.

    Source: Xiong et al. 2021 (2102.03902), section 3, figure 2; sizes: its public configurations (64 landmarks).
    """

    n_landmarks: int = 64
    iterations: int = 6
    inverse_start: str = "matrix"
    kernel_size: int = 65

    def __post_init__(self):
        super().__post_init__()
        at_least_one(n_landmarks=self.n_landmarks, iterations=self.iterations)
        if self.kernel_size and (self.kernel_size < 0 or self.kernel_size % 2 == 0):
            raise ValueError(f"kernel_size={self.kernel_size}; 0 (none) or an odd number of taps is allowed")
        if self.inverse_start not in INVERSE_STARTS:
            raise ValueError(f"inverse_start={self.inverse_start!r}; one of {', '.join(INVERSE_STARTS)} is allowed")

    def setup(self):
        super().setup()
        if self.kernel_size:
            init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=-1, out_axis=-2)
            self.kernel = self.param("value_kernel", init, (self.n_heads, self.kernel_size))

    def mix(
        self, x, state=None, replay=None, *, positions=None, padding_mask=None, segment_ids=None, deterministic=True
    ):
        self.refuse_state(state)
        x = neutralise(x, padding_mask)
        q, k, v = self.project(x, positions, None)
        y = nystrom_attention(
            q,
            k,
            v,
            n_landmarks=self.n_landmarks,
            iterations=self.iterations,
            inverse_start=self.inverse_start,
            padding_mask=padding_mask,
            segment_ids=segment_ids,
            implementation=self.implementation,
            **self.attention_dropout(deterministic),
        )
        if self.kernel_size:
            flat = v.reshape(*v.shape[:2], -1)
            around, _ = light_conv(flat, self.kernel, normalise=False, causal=False, padding_mask=padding_mask)
            y = y + around.reshape(y.shape)
        return neutralise(self.out(y), padding_mask), None, ()
