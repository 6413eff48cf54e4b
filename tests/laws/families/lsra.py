"""Long-short range attention: the first head attends, the second is convolved."""

import functools

import jax.numpy as jnp

from effjax.layers import LSRA
from effjax.ops.convolution import dynamic_conv
from effjax.ops.full import full_attention
from tests.laws.families.convolution import TAPS, softmax
from tests.laws.families.family import Family, allowed, dense, on_arrays, projected_past

LONG, SHORT = slice(0, 1), slice(1, 2)


def op(arrays, frozen, *, implementation, **rules):
    q, k, v = (arrays[name][:, :, LONG] for name in "qkv")
    long = full_attention(q, k, v, implementation=implementation, **rules)
    short, _ = dynamic_conv(arrays["v"][:, :, 1], arrays["logits"][:, :, SHORT], **rules)
    return jnp.concatenate([long, short[:, :, None]], axis=2)


def oracle(arrays, frozen, **rules):
    q, k, v = (arrays[name][:, :, LONG] for name in "qkv")
    long = dense(q, k, v, allowed(q.shape[1], **rules))
    short = softmax({"x": arrays["v"][:, :, SHORT], "logits": arrays["logits"][:, :, SHORT]}, frozen, **rules)
    return jnp.concatenate([long, short], axis=2)


def check_state(layer, params, x, state):
    """Keys of the first half of the channels; the tail has a test with the convolution's own family."""
    attention = {"params": params["params"]["attention"]}
    projected_past(attention, x[..., : x.shape[-1] // 2], state.attention)
    assert state.convolution.values.shape == (2, TAPS - 1, x.shape[-1] // 2)


LSRA_FAMILY = Family(
    name="lsra",
    sequences=("v", "q", "k", "logits"),
    op=on_arrays(op),
    oracle=oracle,
    layer=functools.partial(LSRA, kernel_size=TAPS, conv_heads=2),
    implementations=(None,),
    check_state=check_state,
    growth="quadratic",
    longest=16_384,
)
