"""Conformer's convolution module, and the batch norm in it that padding does not touch."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from effjax.layers.dense import Dense, DenseGeneral
from effjax.layers.feed_forward import ACTIVATIONS
from effjax.layers.mixer import at_least_one, neutralise
from effjax.ops.convolution import Tail, depthwise_conv, empty_tail


class MaskedBatchNorm(nn.Module):
    """`y = gamma (x - mean) / sqrt(var + epsilon) + beta` over the real positions of a batch; 0 at padded ones.

    In training, mean and variance are those of the batch's real positions, over all devices, and collection
    `batch_stats` keeps running ones, `r <- momentum r + (1 - momentum) batch`; in evaluation the running ones are used.

    Attributes:
      momentum: of the running statistics.
      epsilon: added to the variance.
      dtype: dtype of the result; statistics are float32.

    Source: Ioffe & Szegedy 2015 (1502.03167), algorithms 1 and 2; the variance is the biased one in both places.
    """

    momentum: float = 0.99
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], padding_mask: Bool[Array, "B T"] | None = None, *, deterministic: bool = True
    ) -> Float[Array, "B T D"]:
        width, wide = x.shape[-1], x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (width,), jnp.float32)
        variance = self.variable("batch_stats", "variance", jnp.ones, (width,), jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (width,))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        if deterministic:
            center, spread = mean.value, variance.value
        else:
            real = jnp.ones(x.shape[:2], bool) if padding_mask is None else padding_mask
            count = jnp.maximum(jnp.sum(real), 1)
            average = lambda values: jnp.sum(jnp.where(real[..., None], values, 0), axis=(0, 1)) / count
            center = average(wide)
            spread = average((wide - center) ** 2)
            if not self.is_initializing():
                for running, batch in ((mean, center), (variance, spread)):
                    running.value = self.momentum * running.value + (1 - self.momentum) * jax.lax.stop_gradient(batch)
        y = (wide - center) * (jax.lax.rsqrt(spread + self.epsilon) * scale) + bias
        return neutralise(y.astype(self.dtype), padding_mask)


class ConformerConvolution(nn.Module):
    """`y = W2 act(batch_norm(depthwise(a * sigmoid(g)))) + b2`, `[a; g] = x W1 + b1`; a block adds norm and dropout.

    Called like a mixer. Padded positions are zeroed before the convolution, so that none leaks into its neighbours, and
    left out of the statistics. Training (`deterministic=False`) writes collection `batch_stats`.

    Attributes:
      d_model: width D.
      kernel_size: taps K; towards both sides (K-1) // 2 lie in the past and K // 2 in the future.
      causal: all taps lie in the past and the present; such a layer streams, in evaluation.
      activation: a name of `effjax.layers.feed_forward.ACTIVATIONS`; "silu" is the paper's swish.
      use_bias: of both linear layers.
      depthwise_bias: of the convolution.
      momentum, epsilon: of the batch norm.
      implementation: see `effjax.ops.convolution.depthwise_conv`.
      dtype: dtype of the computation.

    Source: Gulati et al. 2020 (2005.08100), section 2.2. Kernel sizes are 32 in the paper, 31 or 5 in public recipes.
    """

    d_model: int
    kernel_size: int = 32
    causal: bool = False
    activation: str = "silu"
    use_bias: bool = True
    depthwise_bias: bool = False
    momentum: float = 0.99
    epsilon: float = 1e-5
    implementation: str | None = None
    dtype: Any = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        at_least_one(d_model=self.d_model, kernel_size=self.kernel_size)
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation={self.activation!r}; one of {', '.join(ACTIVATIONS)} is allowed")

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: Tail | None = None,
        *,
        positions: Int[Array, "B T"] | None = None,
        padding_mask: Bool[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "B T D"], Tail | None]:
        """Outputs, and the state after this piece (None when none came in); see `effjax.layers.Mixer`."""
        del positions
        if state is not None and not deterministic:
            raise ValueError(
                "deterministic=False with a state: a stream takes its statistics from evaluation mode, True"
            )
        init = nn.initializers.glorot_uniform()
        dense = dict(use_bias=self.use_bias, dtype=self.dtype, kernel_init=init)
        halves = DenseGeneral((2, self.d_model), name="inner", **dense)(neutralise(x, padding_mask))
        y = halves[..., 0, :] * jax.nn.sigmoid(halves[..., 1, :])
        init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform", in_axis=0, out_axis=())
        kernel = self.param("kernel", init, (self.kernel_size, self.d_model)).astype(y.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.d_model,)) if self.depthwise_bias else None
        y, state = depthwise_conv(
            y,
            kernel,
            bias=bias,
            causal=self.causal,
            tail=state,
            padding_mask=padding_mask,
            segment_ids=segment_ids,
            implementation=self.implementation,
        )
        norm = MaskedBatchNorm(self.momentum, self.epsilon, self.dtype, name="norm")
        y = ACTIVATIONS[self.activation](norm(y, padding_mask, deterministic=deterministic))
        return neutralise(Dense(self.d_model, name="outer", **dense)(y), padding_mask), state

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> Tail:
        """State before the first frame of `batch_size` streams, whatever their length."""
        if not self.causal:
            raise ValueError("causal=False cannot stream: a frame's output needs frames that are still to come")
        return empty_tail(batch_size, self.kernel_size, self.d_model, dtype)
