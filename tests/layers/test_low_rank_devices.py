"""Law 9 for Performer, Linformer and Nystromformer, by themselves and in a reversible stack."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from effjax.layers import FeedForward, LinformerAttention, NystromAttention, PerformerAttention
from effjax.models.block import Period
from effjax.models.stack import Stack
from tests.laws.measure import relative_norm, relative_rms
from tests.laws.stacks import naive_stack

SIZES = dict(d_model=16, n_heads=2, head_dim=8)
LAYERS = {
    "performer": functools.partial(PerformerAttention, n_features=12, chunk_size=8),
    "performer_both_sides": functools.partial(PerformerAttention, n_features=12, chunk_size=8, causal=False),
    "linformer": functools.partial(LinformerAttention, n_projected=6, max_length=64),
    "nystromformer": functools.partial(NystromAttention, n_landmarks=4, kernel_size=5),
}

pytestmark = [pytest.mark.eight_devices, pytest.mark.slow]


@pytest.mark.parametrize(("name", "implementation"), [("performer", None), *((name, "batched") for name in LAYERS)])
def test_eight_devices_equal_one(name, implementation):
    layer = LAYERS[name](**SIZES, implementation=implementation)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64, 16)), jnp.float32)
    params = jax.jit(layer.init)(jax.random.key(0), x[:1, :4])
    run = jax.jit(jax.value_and_grad(lambda params, x: jnp.mean(jnp.sin(layer.apply(params, x)[0])), argnums=(0, 1)))
    loss, grads = run(params, x)

    mesh = jax.make_mesh((2, 2, 2), ("data", "sequence", "tensor"), axis_types=(AxisType.Auto,) * 3)
    heads = {"query": P(None, "tensor"), "key": P(None, "tensor"), "value": P(None, "tensor"), "out": P("tensor")}
    where = jax.tree_util.tree_map_with_path(lambda path, _: NamedSharding(mesh, heads.get(path[1].key, P())), params)
    split = jax.device_put(x, NamedSharding(mesh, P("data", "sequence")))
    sharded_loss, sharded_grads = run(jax.device_put(params, where), split)
    assert abs(float(sharded_loss) / float(loss) - 1) <= 1e-6
    assert relative_norm(sharded_grads, grads) <= 1e-6


@pytest.mark.parametrize("name", ["performer", "linformer"])
def test_a_reversible_stack_equals_the_plain_loop(name):
    period = Period((functools.partial(LAYERS[name], **SIZES),), functools.partial(FeedForward, 16, 16))
    stack = Stack(period, 2, residual="reversible")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 19, 16)), jnp.float32)
    params = jax.jit(stack.init)(jax.random.key(0), x)
    key = jax.random.key(1)
    grads = lambda fn: jax.jit(jax.grad(lambda params, x: jnp.sum(jnp.sin(fn(params, x))), argnums=(0, 1)))(params, x)
    ours = grads(lambda params, x: stack.apply(params, x)[0])
    assert relative_rms(ours, grads(lambda params, x: naive_stack(stack, params, x, key))) <= 2e-5
