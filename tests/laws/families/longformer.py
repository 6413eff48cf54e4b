"""Longformer: dilated windows, and global tokens that differ between examples (dilation by head: see tests/ops)."""

import jax.numpy as jnp
import numpy as np

from effjax.layers import LongformerAttention
from effjax.ops.longformer import longformer_attention
from tests.laws.families.family import CHUNK, Family, allowed, dense, on_arrays
from tests.laws.measure import relative_rms

STEPS, DILATION, TOKENS = CHUNK // 2, 2, 2


def choices(rng, batch, length):
    """Which tokens are global: two near the beginning, others in every example."""
    places = [{min(1 + b, length - 1), min(4, length - 1)} for b in range(batch)]
    return {"global_mask": np.array([[t in own for t in range(length)] for own in places])}


def oracle(arrays, frozen, *, causal=True, **rules):
    length = arrays["q"].shape[1]
    everything = allowed(length, causal=causal, **rules)
    ahead = np.arange(length) - np.arange(length)[:, None]
    near = (np.abs(ahead) <= STEPS * DILATION) & (ahead % DILATION == 0)
    marked = np.asarray(frozen["global_mask"])
    if rules.get("padding_mask") is not None:
        marked = marked & np.asarray(rules["padding_mask"])
    seen = everything & (near | marked[:, None, None])
    local = dense(arrays["q"], arrays["k"], arrays["v"], seen)
    of_tokens = dense(arrays["q_global"], arrays["k_global"], arrays["v_global"], everything)
    return jnp.where(marked[:, :, None, None], of_tokens, local)


def op(arrays, frozen, **kwargs):
    names = ("q", "k", "v", "q_global", "k_global", "v_global")
    options = dict(window=STEPS, dilation=DILATION, global_mask=frozen["global_mask"], max_global=TOKENS)
    return longformer_attention(*(arrays[name] for name in names), **options, **kwargs)


def check_state(layer, params, x, state):
    """Local keys in the window, and both kinds of keys of the global tokens."""
    kernels = {name: np.asarray(params["params"][name]["kernel"], np.float64) for name in ("key", "key_global")}
    keys, tokens = (np.einsum("btd,dnh->btnh", np.asarray(x, np.float64), kernel) for kernel in kernels.values())
    assert int(state.index) == x.shape[1]
    (window,) = state.windows
    live = np.asarray(window.segment_ids) >= 0
    assert live.shape[1] == STEPS * DILATION and live.sum(-1).tolist() == [x.shape[1]] * x.shape[0]
    assert relative_rms(np.asarray(window.rows[0])[live].reshape(keys.shape), keys) <= 1e-6
    assert relative_rms(state.global_rows[0], keys[:, :TOKENS]) <= 1e-6
    assert relative_rms(state.global_rows[2], tokens[:, :TOKENS]) <= 1e-6


LONGFORMER = Family(
    name="longformer",
    sequences=("v", "q", "k", "q_global", "k_global", "v_global"),
    op=on_arrays(op),
    oracle=oracle,
    layer=lambda **kwargs: LongformerAttention(**dict(window=STEPS, dilation=DILATION, global_tokens=TOKENS) | kwargs),
    choices=choices,
    streaming=dict(rotary=True),
    check_state=check_state,
)
