"""Keys and values with fewer heads than queries: the same as repeated projections, with a smaller state."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.layers import FullAttention, LocalAttention, LongformerAttention
from effjax.layers.performer import PerformerAttention

D_MODEL, HEADS, WIDTH, LENGTH = 12, 4, 3, 21
LAYERS = {
    "full": functools.partial(FullAttention, rotary=False),
    "local": functools.partial(LocalAttention, chunk_size=4),
    "performer": functools.partial(PerformerAttention, n_features=8, chunk_size=4),
}
layers = pytest.mark.parametrize("name", LAYERS)


@functools.cache
def grouped(name, n_kv_heads=2):
    layer = LAYERS[name](D_MODEL, HEADS, WIDTH, n_kv_heads=n_kv_heads, use_bias=True)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, LENGTH, D_MODEL)), jnp.float32)
    return layer, jax.jit(layer.init)(jax.random.key(0), x), x


@layers
def test_equals_repeated_projections(name, n_kv_heads=2):
    layer, params, x = grouped(name, n_kv_heads)
    plain = layer.clone(n_kv_heads=0)
    assert params["params"]["key"]["kernel"].shape == (D_MODEL, n_kv_heads, WIDTH)

    def repeated(params):
        own = dict(params["params"])
        for part in ("key", "value"):
            own[part] = {name: jnp.repeat(leaf, HEADS // n_kv_heads, axis=-2) for name, leaf in own[part].items()}
        return {"params": own}

    @jax.jit
    def both(params, x):
        ours = jax.value_and_grad(lambda p, x: jnp.sum(jnp.sin(layer.apply(p, x)[0])), (0, 1))(params, x)
        theirs = jax.value_and_grad(lambda p, x: jnp.sum(jnp.sin(plain.apply(repeated(p), x)[0])), (0, 1))(params, x)
        return ours, theirs

    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), *both(params, x))


@layers
def test_streams_with_a_smaller_state(name):
    layer, params, x = grouped(name)
    whole, step = jax.jit(layer.apply)(params, x)[0], jax.jit(layer.apply)
    state, pieces = layer.initial_state(2, max_length=LENGTH), []
    sizes = lambda layer: sum(leaf.size for leaf in jax.tree.leaves(layer.initial_state(2, max_length=LENGTH)))
    if name != "performer":  # whose sums are those of query heads
        assert state.key.shape[2] == 2 and sizes(layer) < 0.6 * sizes(layer.clone(n_kv_heads=0))
    for piece in np.split(np.asarray(x), [9, 10, 11, 12], axis=1):
        y, state = step(params, piece, state)
        pieces.append(y)
    np.testing.assert_allclose(np.concatenate(pieces, 1), whole, rtol=1e-5, atol=1e-5)


@layers
@pytest.mark.parametrize("n_kv_heads", [3, 8, -1])
def test_heads_that_do_not_divide_are_named(name, n_kv_heads):
    with pytest.raises(ValueError, match=f"n_kv_heads={n_kv_heads}; a divisor of n_heads=4"):
        LAYERS[name](D_MODEL, HEADS, WIDTH, n_kv_heads=n_kv_heads)


def test_longformer_has_keys_for_every_head():
    with pytest.raises(ValueError, match="n_kv_heads=2; 0 is allowed"):
        LongformerAttention(D_MODEL, HEADS, WIDTH, n_kv_heads=2)
