"""FAVOR+ with positive features of a given projection."""

import numpy as np

from effjax.layers import PerformerAttention
from effjax.ops.favor import favor_attention
from tests.laws.families.family import WIDTH, Family, allowed, on_arrays
from tests.laws.measure import relative_rms
from tests.ops.favor_oracle import dense_favor, phi

FEATURES = 12


def oracle(arrays, frozen, **rules):
    return dense_favor(**arrays, visible=allowed(arrays["q"].shape[1], **rules))


def check_state(layer, params, x, state):
    """Sums of the features of the keys, and of their products with the values, relative to the greatest scale."""
    own = params["params"]
    kernels = [np.asarray(own[name]["kernel"], np.float64) for name in ("key", "value")]
    k, v = (np.einsum("btd,dnh->bnth", np.asarray(x, np.float64), kernel) for kernel in kernels)
    features = np.asarray(phi(k * WIDTH**-0.25, np.asarray(own["projection"], np.float64), "softmax"))
    scale = np.exp(np.asarray(state.sums.scale, np.float64))[..., None]
    assert int(state.index) == x.shape[1]
    assert relative_rms(state.sums.total * scale, features.sum(2)) <= 1e-5
    assert relative_rms(state.sums.weighted * scale[..., None], np.einsum("bnth,bntf->bnhf", v, features)) <= 1e-5


PERFORMER = Family(
    name="performer",
    sequences=("v", "q", "k"),
    op=on_arrays(lambda arrays, frozen, **rules: favor_attention(**arrays, chunk_size=8, **rules)[0]),
    oracle=oracle,
    layer=lambda **kwargs: PerformerAttention(**dict(n_features=FEATURES, chunk_size=8) | kwargs),
    parameters=lambda rng: {"projection": rng.normal(size=(FEATURES, WIDTH))},
    streaming=dict(rotary=True),
    check_state=check_state,
)
