"""Convolutions along time as token mixers: light (softmax kernels), dynamic (chosen by the input), depthwise."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from effjax.layers.dense import Dense, DenseGeneral
from effjax.layers.mixer import Mixer, at_least_one, neutralise
from effjax.ops.convolution import Tail, depthwise_conv, dynamic_conv, empty_tail, light_conv


class Convolution(Mixer):
    """`y = W2 conv(u) + b2`, where `u = x W1 + b1`, or `u = a * sigmoid(g)` with `[a; g] = x W1 + b1` if gated.

    The convolution runs over `n_heads * head_dim` channels and a subclass says which one it is. Dropout is DropConnect:
    it drops weights of the kernel, not outputs.

    Attributes:
      kernel_size: taps K.
      causal: a position sees itself and the K-1 before it; otherwise (K-1) // 2 before and K // 2 after it.
      glu: gated, as in the paper; its released configurations gate dynamic convolutions only.
      bias_at_padding: padded positions enter the convolution as what `W1` makes of zeros, as in the released code,
        instead of as zeros. A batch of unequal lengths then differs from its sequences one by one.
      and those of `Mixer`.

    A stream carries the last K-1 inputs of the convolution.

    Source: Wu, Liu et al. 2020 (2004.11886), section 4; Wu, Fan et al. 2019 (1901.10430), section 3.
    """

    bounded_state: ClassVar[bool] = True
    per_block: ClassVar[tuple[str, ...]] = ("kernel_size",)

    kernel_size: int = 31
    causal: bool = True
    glu: bool = True
    bias_at_padding: bool = False

    def __post_init__(self):
        super().__post_init__()
        at_least_one(kernel_size=self.kernel_size)

    @property
    def width(self) -> int:
        """Channels of the convolution."""
        return self.n_heads * self.head_dim

    @nn.compact
    def mix(
        self, x, state=None, replay=None, *, positions=None, padding_mask=None, segment_ids=None, deterministic=True
    ):
        dense = dict(dtype=self.dtype, kernel_init=nn.initializers.glorot_uniform())
        x = neutralise(x, padding_mask)
        if self.glu:
            halves = DenseGeneral((2, self.width), name="inner", **dense)(x)
            u = halves[..., 0, :] * jax.nn.sigmoid(halves[..., 1, :])
        else:
            u = Dense(self.width, name="inner", **dense)(x)
        y, state = self.convolve(
            u,
            causal=self.causal,
            tail=state,
            padding_mask=None if self.bias_at_padding else padding_mask,
            segment_ids=segment_ids,
            dropout=self.attention_dropout(deterministic),
        )
        y = Dense(self.d_model, name="outer", **dense)(y)
        return neutralise(y, padding_mask), state, ()

    def convolve(self, u, *, dropout, **kwargs):
        """The convolution of `[B, T, width]`, and the tail."""
        raise NotImplementedError

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> Tail:
        if not self.causal:
            raise ValueError("causal=False cannot stream: a token's output needs tokens that are still to come")
        return empty_tail(batch_size, self.kernel_size, self.width, dtype)


class LightConvolution(Convolution):
    """A convolution with one softmax kernel per head: `N K` weights, the same at every position.

    Attributes: those of `Convolution`.

    Source: Wu, Fan et al. 2019 (1901.10430), section 3.1.
    """

    def convolve(self, u, *, dropout, **kwargs):
        logits = self.param("logits", nn.initializers.glorot_uniform(), (self.n_heads, self.kernel_size))
        return light_conv(u, logits, **dropout, **kwargs)


class DynamicConvolution(Convolution):
    """A convolution whose softmax kernels are a linear function of the input at each position, without bias.

    Attributes: those of `Convolution`.

    Source: Wu, Fan et al. 2019 (1901.10430), section 3.2.
    """

    def convolve(self, u, *, dropout, **kwargs):
        init = nn.initializers.glorot_uniform()
        features = (self.n_heads, self.kernel_size)
        logits = nn.DenseGeneral(features, use_bias=False, dtype=self.dtype, kernel_init=init, name="logits")(u)
        return dynamic_conv(u, logits, **dropout, **kwargs)


class DepthwiseConvolution(Convolution):
    """A convolution with a free kernel for every channel, which drops no weights.

    Attributes:
      implementation: see `effjax.ops.convolution.depthwise_conv`.
      and those of `Convolution`.
    """

    implementation: str | None = None

    def convolve(self, u, *, dropout, **kwargs):
        del dropout
        init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform", in_axis=0, out_axis=())
        kernel = self.param("kernel", init, (self.kernel_size, self.width))
        return depthwise_conv(u, kernel.astype(u.dtype), implementation=self.implementation, **kwargs)
