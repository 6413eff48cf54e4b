"""Convolutions along time, each of whose kernels is an input of the op: free, softmax, or softmax at every position."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from effjax.layers import DepthwiseConvolution, DynamicConvolution, LightConvolution
from effjax.ops.convolution import depthwise_conv, dynamic_conv, light_conv
from tests.laws.families.family import HEADS, WIDTH, Family, allowed, on_arrays
from tests.laws.measure import relative_rms

TAPS = WIDTH  # so that the logits of a dynamic convolution have the shape of its inputs


def reached(length, *, causal=True, **rules):
    """[B or 1, T, S, K]: 1 where tap j of output t meets input s."""
    before = TAPS - 1 if causal else (TAPS - 1) // 2
    taps = np.zeros((length, length, TAPS))
    for t in range(length):
        for j in range(TAPS):
            if 0 <= t - before + j < length:
                taps[t, t - before + j, j] = 1
    return taps * allowed(length, causal=False, **rules)[:, 0, ..., None]


def taps_of(x, **rules):
    taps = reached(x.shape[1], **rules)
    return jnp.broadcast_to(taps, (len(x), *taps.shape[1:]))


def join(x):
    return x.reshape(*x.shape[:2], -1)


def op(function, kernel):
    """The op on heads."""

    def run(arrays, frozen, *, implementation=None, **rules):
        form = {} if implementation is None else dict(implementation=implementation)
        return function(join(arrays["x"]), arrays[kernel], **rules, **form)[0].reshape(arrays["x"].shape)

    return on_arrays(run)


def depthwise(arrays, frozen, **rules):
    x, kernel = arrays["x"], arrays["kernel"].reshape(TAPS, HEADS, WIDTH)
    return jnp.einsum("btsj,bsnh,jnh->btnh", taps_of(x, **rules), x, kernel)


def softmax(arrays, frozen, **rules):
    x = arrays["x"]
    weights = jax.nn.softmax(jnp.broadcast_to(arrays["logits"], (*x.shape[:3], TAPS)), axis=-1)
    return jnp.einsum("btsj,bsnh,btnj->btnh", taps_of(x, **rules), x, weights)


def check_state(layer, params, x, state):
    """What the first linear layer, gated, makes of the last inputs."""
    inner = params["params"]["inner"]
    a, g = np.moveaxis(np.tensordot(np.asarray(x, np.float64), inner["kernel"], 1) + inner["bias"], -2, 0)
    expected = a / (1 + np.exp(-g))
    live = np.asarray(state.segment_ids) >= 0
    assert live.tolist() == [[False] * (TAPS - 1 - x.shape[1]) + [True] * x.shape[1]] * 2
    assert relative_rms(np.asarray(state.values)[live].reshape(expected.shape), expected) <= 1e-6
    assert not np.asarray(state.values)[~live].any()


COMMON = dict(check_state=check_state, implementations=(None,))

DEPTHWISE_CONV = Family(
    name="depthwise_conv",
    sequences=("x",),
    op=op(depthwise_conv, "kernel"),
    oracle=depthwise,
    layer=functools.partial(DepthwiseConvolution, kernel_size=TAPS),
    parameters=lambda rng: {"kernel": rng.normal(size=(TAPS, HEADS * WIDTH))},
    sibling="dynamic_conv",
    **COMMON | dict(implementations=("blocked", "batched")),
)

LIGHT_CONV = Family(
    name="light_conv",
    sequences=("x",),
    op=op(light_conv, "logits"),
    oracle=softmax,
    layer=functools.partial(LightConvolution, kernel_size=TAPS),
    parameters=lambda rng: {"logits": rng.normal(size=(HEADS, TAPS))},
    sibling="dynamic_conv",
    **COMMON,
)

DYNAMIC_CONV = Family(
    name="dynamic_conv",
    sequences=("x", "logits"),
    op=op(dynamic_conv, "logits"),
    oracle=softmax,
    layer=functools.partial(DynamicConvolution, kernel_size=TAPS),
    **COMMON,
)
