"""Linformer: softmax(Q (E K)^T) (F V), padded keys and values counting as zeros."""

import jax
import jax.numpy as jnp
import numpy as np

from effjax.layers import LinformerAttention
from effjax.ops.linformer import linformer_attention
from tests.laws.families.family import WIDTH, Family, on_arrays

PROJECTED, LONGEST = 6, 40


def oracle(arrays, frozen, *, causal, padding_mask=None):
    q, k, v = (arrays[name] for name in ("q", "k", "v"))
    if padding_mask is not None:
        k, v = (jnp.where(padding_mask[:, :, None, None], x, 0) for x in (k, v))
    mixed = [
        jnp.einsum("ps,bsnh->bpnh", arrays[name][:, : k.shape[1]], x) for name, x in (("proj_k", k), ("proj_v", v))
    ]
    logits = jnp.einsum("btnh,bpnh->bntp", q, mixed[0]) / np.sqrt(WIDTH)
    return jnp.einsum("bntp,bpnh->btnh", jax.nn.softmax(logits), mixed[1])


LINFORMER = Family(
    name="linformer",
    sequences=("v", "q", "k"),
    op=on_arrays(lambda arrays, frozen, **rules: linformer_attention(**arrays, **rules)),
    oracle=oracle,
    layer=lambda **kwargs: LinformerAttention(**dict(n_projected=PROJECTED, max_length=LONGEST) | kwargs),
    parameters=lambda rng: {name: rng.normal(size=(PROJECTED, LONGEST)) / 3 for name in ("proj_k", "proj_v")},
    causal=False,  # every mixture of keys holds positions from the whole sequence, of every document
    segments=False,
    sized=lambda length: dict(max_length=length),
)
