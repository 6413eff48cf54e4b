"""Which form of an op is traced, and which is compiled, with and without a mesh that knows its platform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from effjax.accounting.topologies import topology_devices
from effjax.ops.heads import over_heads
from effjax.ops.platforms import by_platform

X = jnp.arange(3.0)


def traced():
    """Two forms of one op, and which of them have been traced."""
    seen = []

    def form(name, fn):
        return lambda x: (seen.append(name), fn(x))[1]

    return seen, lambda x: by_platform(x, cpu=form("cpu", jnp.sin), default=form("default", jnp.cos))


def mesh_of(devices):
    return Mesh(np.array(devices[:1]), ("data",), axis_types=(AxisType.Auto,))


@pytest.mark.parametrize(("platform", "name"), [("cpu", "cpu"), ("tpu", "default")])
def test_a_mesh_says_which_one_is_traced(platform, name):
    seen, op = traced()
    devices = jax.devices() if platform == "cpu" else topology_devices("v5e:2x2")
    with jax.set_mesh(mesh_of(devices)):
        jaxpr = jax.make_jaxpr(op)(X)
    assert seen == [name]
    assert [eqn.primitive.name for eqn in jaxpr.eqns] == [{"cpu": "sin", "default": "cos"}[name]]


def test_without_one_the_compiler_chooses():
    seen, op = traced()
    np.testing.assert_array_equal(jax.jit(op)(X), jnp.sin(X))
    assert sorted(set(seen)) == ["cpu", "default"]
    text = lambda platform: jax.jit(op).trace(X).lower(lowering_platforms=(platform,)).as_text()
    for platform, kept, left_out in (("cpu", "sine", "cosine"), ("tpu", "cosine", "sine"), ("cuda", "cosine", "sine")):
        assert f"stablehlo.{kept}" in text(platform) and f"stablehlo.{left_out}" not in text(platform)


def test_what_was_traced_for_one_mesh_is_not_taken_for_another():
    _, op = traced()
    jitted = jax.jit(op)
    with jax.set_mesh(mesh_of(jax.devices())):
        assert "stablehlo.sine" in jitted.lower(X).as_text()
    with jax.set_mesh(mesh_of(topology_devices("v5e:2x2"))):
        assert "stablehlo.cosine" in jitted.trace(X).lower(lowering_platforms=("tpu",)).as_text()
    assert "stablehlo.sine" in jitted.lower(X).as_text()


def test_forms_over_heads_agree():
    x = jnp.arange(24.0).reshape(2, 3, 4)
    expected = jnp.cumsum(x, axis=-1)
    for implementation in ("blocked", "batched", None):
        np.testing.assert_array_equal(over_heads(jnp.cumsum, implementation, x), expected)
