"""Attention from one sequence to another, whose keys and values are made once and kept."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from effjax.layers.mixer import neutralise, stream_segments
from effjax.layers.projections import SeparateHeads
from effjax.ops.full import full_attention


@flax.struct.dataclass
class SourceRows:
    """What a layer keeps of a source, however long the target grows."""

    key: jax.Array  # [B, S, K, H]
    value: jax.Array
    segment_ids: jax.Array  # [B, S], -1 where padded


class CrossAttention(SeparateHeads):
    """Multi-head attention of a target `x` to a source: `softmax(Q(x) K(source)^T / sqrt(H)) V(source)` per head.

    It is no `Mixer` of one sequence: `read` makes the keys and values of a source, once for training or for all the
    tokens to come, and `__call__` looks them up. Every target token sees the whole source of its segment.

    Attributes: those of `SeparateHeads`; distances between two sequences mean nothing, so `causal` and `rotary` are
      refused.

    Source: Vaswani et al. 2017 (1706.03762), section 3.2.3.
    """

    causal: bool = False
    use_bias: bool = True

    def __post_init__(self):
        super().__post_init__()
        for name in ("causal", "rotary"):
            if getattr(self, name):
                raise ValueError(f"{name}=True: positions of a target are not those of its source; False is allowed")

    def read(
        self,
        source: Float[Array, "B S D"],
        padding_mask: Bool[Array, "B S"] | None = None,
        segment_ids: Int[Array, "B S"] | None = None,
    ) -> SourceRows:
        """The keys and values of a source."""
        source = neutralise(source.astype(self.dtype), padding_mask)
        return SourceRows(self.key(source), self.value(source), stream_segments(source, padding_mask, segment_ids))

    def __call__(
        self,
        x: Float[Array, "R T D"],
        source: SourceRows,
        *,
        padding_mask: Bool[Array, "R T"] | None = None,
        segment_ids: Int[Array, "R T"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "R T D"]:
        """Looks up a source.

        Args:
          x: targets; R is a multiple of the B sources: rows `i R / B … (i + 1) R / B - 1` (the beams of a search) look
            into source i, of which there is one copy.
          source: what `read` gave.
          padding_mask, segment_ids, deterministic: as in `effjax.layers.Mixer`; segments are those of the source too.

        Returns:
          The outputs; 0 where padded, and the output projection's bias where there is no source.

        Raises:
          ValueError: rows that the sources do not divide.
        """
        (rows, length), sources = x.shape[:2], source.key.shape[0]
        if rows % sources:
            raise ValueError(f"{rows} rows of targets for {sources} sources; a multiple is allowed")
        x = neutralise(x, padding_mask)
        segments = jnp.maximum(stream_segments(x, padding_mask, segment_ids), 0)
        y = full_attention(
            self.query(x).reshape(sources, -1, self.n_heads, self.head_dim),
            source.key,
            source.value,
            segment_ids=segments.reshape(sources, -1),
            key_segment_ids=source.segment_ids,
            implementation=self.implementation,
            **self.attention_dropout(deterministic),
        )
        y = y.reshape(rows, length, self.n_heads, self.head_dim)
        return neutralise(self.out(y), padding_mask)
