"""Long-short range attention: half of the channels attend, the other half are convolved."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from effjax.layers.convolution import DynamicConvolution, LightConvolution
from effjax.layers.full import FullAttention
from effjax.layers.mixer import Mixer, at_least_one, probability
from effjax.ops.convolution import Tail

CONVOLUTIONS = {"dynamic": DynamicConvolution, "light": LightConvolution}


class LongAndShort(NamedTuple):
    """What the two branches keep of a stream."""

    attention: Any
    convolution: Tail


class LSRA(Mixer):
    """`y = [attention(x_1..D/2) ; convolution(x_D/2+1..D)]`, each branch with projections of its own, D/2 wide.

    Nothing is mixed between the halves here: that is left to the feed-forward network, which is D wide in the paper
    (`d_ff = d_model`) instead of four times that.

    Attributes:
      n_heads, head_dim: of the attention branch; the paper has D/2 = n_heads * head_dim.
      dropout_rate: on the attention probabilities.
      kernel_size: taps of the convolution; in the paper 3, 7, 15, 31, 31, 31 from the first layer on.
      convolution: "dynamic" (the paper's for translation and language modelling) or "light" (its smallest task's).
      conv_heads: heads of the convolution, whose channels are D/2 in all.
      weight_dropout: on the weights of the convolution's kernels.
      causal: a position sees itself and the past only, in both branches.
      glu, bias_at_padding: see `effjax.layers.convolution.Convolution`.
      make_attention: constructor of the attention branch, called with the attributes of a `Mixer` and `causal`.

    Source: Wu, Liu et al. 2020 (2004.11886), section 4.
    """

    per_block: ClassVar[tuple[str, ...]] = ("kernel_size",)

    kernel_size: int = 31
    convolution: str = "dynamic"
    conv_heads: int = 4
    weight_dropout: float = 0.0
    causal: bool = True
    glu: bool = True
    bias_at_padding: bool = False
    make_attention: Callable[..., Mixer] = functools.partial(FullAttention, use_bias=True)

    def __post_init__(self):
        super().__post_init__()
        at_least_one(kernel_size=self.kernel_size, conv_heads=self.conv_heads)
        probability(weight_dropout=self.weight_dropout)
        if self.d_model % 2:
            raise ValueError(f"d_model={self.d_model}; an even number is allowed, each branch takes half of it")
        if self.convolution not in CONVOLUTIONS:
            raise ValueError(f"convolution={self.convolution!r}; one of {', '.join(CONVOLUTIONS)} is allowed")
        if self.d_model // 2 % self.conv_heads:
            raise ValueError(
                f"conv_heads={self.conv_heads}; a divisor of the convolution's {self.d_model // 2} channels is allowed"
            )

    def branches(self, **options) -> tuple[Mixer, Mixer]:
        """The two mixers."""
        common = dict(d_model=self.d_model // 2, causal=self.causal, dtype=self.dtype)
        attention = self.make_attention(
            n_heads=self.n_heads,
            head_dim=self.head_dim,
            dropout_rate=self.dropout_rate,
            **common,
            **({"name": "attention"} | options),
        )
        convolution = CONVOLUTIONS[self.convolution](
            n_heads=self.conv_heads,
            head_dim=self.d_model // 2 // self.conv_heads,
            dropout_rate=self.weight_dropout,
            kernel_size=self.kernel_size,
            glu=self.glu,
            bias_at_padding=self.bias_at_padding,
            **common,
            **({"name": "convolution"} | options),
        )
        return attention, convolution

    @nn.compact
    def mix(
        self, x, state=None, replay=None, *, positions=None, padding_mask=None, segment_ids=None, deterministic=True
    ):
        sequence = dict(
            positions=positions, padding_mask=padding_mask, segment_ids=segment_ids, deterministic=deterministic
        )
        attention, convolution = self.branches()
        long, short = jnp.split(x, 2, axis=-1)
        past = LongAndShort(None, None) if state is None else state
        y_long, long_past, replay = attention.mix(long, past.attention, replay, **sequence)
        y_short, short_past, _ = convolution.mix(short, past.convolution, None, **sequence)
        state = None if state is None else LongAndShort(long_past, short_past)
        return jnp.concatenate([y_long, y_short], -1), state, replay

    @property
    def bounded_state(self) -> bool:
        """Whether the attention's state is."""
        return self.branches(name=None, parent=None)[0].bounded_state

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> LongAndShort:
        states = (
            branch.initial_state(batch_size, dtype, max_length=max_length)
            for branch in self.branches(name=None, parent=None)
        )
        return LongAndShort(*states)
