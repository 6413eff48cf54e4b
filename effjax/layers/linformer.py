"""Linformer: attention to a fixed number of learned mixtures of the positions."""

import flax.linen as nn

from effjax.layers.both_sides import BothSides
from effjax.layers.mixer import at_least_one, neutralise
from effjax.ops.linformer import linformer_attention

SHARINGS = ("none", "headwise", "key_value", "layerwise")


class LinformerAttention(BothSides):
    """Multi-head attention `softmax(Q (E K)^T / sqrt(H)) (F V)` with learned `E, F [P, L]`, linear in the length.

    Attributes:
      n_projected: P, mixtures of positions.
      max_length: L, the longest sequence; a shorter one takes the first columns of the projections.
      sharing: whose projections are one and the same: "none", each head has its own E and F (2 N P L parameters a
        layer); "headwise", one E and one F (2 P L); "key_value", E = F (P L); "layerwise", one E = F for all layers of
        the model (P L in all).
      and those of `BothSides`; implementations are those of `effjax.ops.full.full_attention`.

    Source: Wang et al. 2020 (2006.04768), section 4; initial values: its public code (fairseq, Glorot uniform of gain
    1 / sqrt 2).
    """

    n_projected: int = 256
    max_length: int = 512
    sharing: str = "headwise"

    def __post_init__(self):
        super().__post_init__()
        at_least_one(n_projected=self.n_projected, max_length=self.max_length)
        if self.sharing not in SHARINGS:
            raise ValueError(f"sharing={self.sharing!r}; one of {', '.join(SHARINGS)} is allowed")

    def shared_params(self):
        return self._projections() if self.sharing == "layerwise" else {}

    def _projections(self):
        shape = (self.n_projected, self.max_length)
        if self.sharing == "none":
            shape = (self.n_heads, *shape)
        init = nn.initializers.variance_scaling(
            0.5, "fan_avg", "uniform", in_axis=-1, out_axis=-2, batch_axis=tuple(range(len(shape) - 2))
        )
        one = self.sharing in ("key_value", "layerwise")
        names = ("length_projection",) if one else ("key_length_projection", "value_length_projection")
        return {name: (shape, init) for name in names}

    @nn.compact  # for the parameters that a model may hand in
    def mix(
        self,
        x,
        state=None,
        replay=None,
        *,
        positions=None,
        padding_mask=None,
        segment_ids=None,
        deterministic=True,
        shared=None,
    ):
        self.refuse_state(state)
        own = shared or {name: self.param(name, init, shape) for name, (shape, init) in self._projections().items()}
        x = neutralise(x, padding_mask)
        q, k, v = self.project(x, positions, None)
        y = linformer_attention(
            q,
            k,
            v,
            **dict(zip(("proj_k", "proj_v"), own.values())),
            padding_mask=padding_mask,
            segment_ids=segment_ids,
            implementation=self.implementation,
            **self.attention_dropout(deterministic),
        )
        return neutralise(self.out(y), padding_mask), None, ()
