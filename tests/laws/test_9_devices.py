"""Law 9: one device and eight, along any axis of the mesh, give the same loss and gradients."""

import functools

import jax
import jax.numpy as jnp
import pytest

from effjax.models.build import DECODER_SHARDING
from effjax.training.sharding import AXES, batch_shardings, make_mesh, state_shardings
from effjax.training.state import TrainState
from tests.laws.measure import relative_norm
from tests.laws.stacks import MODES, ids, make_decoder

pytestmark = pytest.mark.eight_devices

MESHES = {"data": (8, 1, 1, 1), "fsdp": (1, 8, 1, 1), "tensor": (2, 1, 4, 1), "sequence": (2, 1, 1, 4)}
EVERY_AXIS = (1, 2, 2, 2)


# The other families, a few to a stack; those for encoders: tests/layers/test_low_rank_devices.py.
OTHERS = {
    "sparse": ("strided", "fixed", "log_sparse", "big_bird", "window"),
    "relative": ("longformer", "adaptive_span", "transformer_xl"),
    "sums_and_convolutions": ("performer", "light_conv", "dynamic_conv", "depthwise_conv", "lsra"),
}


@functools.cache
def value_and_grads(mode, mesh=None, implementation=None, pattern=("full", "local", "chunked_lsh")):
    """Loss and gradients of a batch of 8 x 32 tokens with dropout, on one device or spread over a mesh."""
    sizes = dict(n_heads=4, head_dim=4) | ({} if implementation is None else dict(implementation=implementation))
    model, params = make_decoder(mode, pattern=pattern, dropout_rate=0.1, **sizes)
    batch = {"tokens": ids((8, 32))}

    def loss(params, batch):
        rngs = {"dropout": jax.random.key(5)}
        tokens = batch["tokens"]
        return jnp.mean(model.apply(params, tokens, tokens, deterministic=False, rngs=rngs, method="nats")[0])

    if mesh is None:
        with jax.set_mesh(make_mesh(dict.fromkeys(AXES, 1), jax.devices()[:1])):
            return jax.jit(jax.value_and_grad(loss))(params, batch)
    mesh = make_mesh(dict(zip(AXES, mesh)), jax.devices())
    state = TrainState(0, params, (), (), 0, 0, 0)
    where = state_shardings(state, mesh, DECODER_SHARDING).params
    split = [leaf for leaf in jax.tree.leaves(where) if not leaf.is_fully_replicated]
    assert bool(split) == (mesh.shape["fsdp"] * mesh.shape["tensor"] > 1)
    step = jax.jit(jax.value_and_grad(loss), in_shardings=(where, batch_shardings(batch, mesh)))
    with jax.set_mesh(mesh):
        return step(jax.device_put(params, where), jax.device_put(batch, batch_shardings(batch, mesh)))


@pytest.mark.parametrize(
    "mesh",
    [pytest.param(MESHES[name], id=name, marks=pytest.mark.slow) for name in MESHES],
)
def test_eight_devices_equal_one(mesh):
    loss, grads = value_and_grads("reversible")
    sharded_loss, sharded_grads = value_and_grads("reversible", mesh)
    assert abs(float(sharded_loss) / float(loss) - 1) <= 1e-6
    assert relative_norm(sharded_grads, grads) <= 1e-6


@pytest.mark.slow
def test_eight_devices_equal_one_in_the_accelerators_form():
    loss, grads = value_and_grads("reversible", implementation="batched")
    sharded_loss, sharded_grads = value_and_grads("reversible", EVERY_AXIS, implementation="batched")
    assert abs(float(sharded_loss) / float(loss) - 1) <= 1e-6
    assert relative_norm(sharded_grads, grads) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("pattern", OTHERS.values(), ids=OTHERS)
def test_eight_devices_equal_one_for_the_other_families(pattern):
    loss, grads = value_and_grads("reversible", pattern=pattern)
    sharded_loss, sharded_grads = value_and_grads("reversible", EVERY_AXIS, pattern=pattern)
    assert abs(float(sharded_loss) / float(loss) - 1) <= 1e-6
    assert relative_norm(sharded_grads, grads) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "reversible"])
def test_eight_devices_equal_one_in_the_other_modes(mode):
    loss, grads = value_and_grads(mode)
    sharded_loss, sharded_grads = value_and_grads(mode, EVERY_AXIS)
    # A sum that rounds differently by one unit may land one step of the exact mode's grid away.
    assert abs(float(sharded_loss) / float(loss) - 1) <= (1e-5 if mode == "exact" else 1e-6)
    assert relative_norm(sharded_grads, grads) <= (1e-2 if mode == "exact" else 1e-6)
