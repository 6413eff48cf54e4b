"""Patterns on splash attention: equal numbers in interpretation, a program that a TPU can run, clear refusals."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, use_abstract_mesh
from jax.sharding import PartitionSpec as P

from effjax.accounting.topologies import compile_for_topology, topology_devices
from effjax.ops import sparse_kernels
from effjax.ops.patterns import Causal, GlobalTokens, PerHead, SlidingWindow, Strided, from_mask
from effjax.ops.sparse import sparse_attention
from effjax.ops.sparse_rules import Rules
from tests.ops.attention_oracle import assert_close, random_arrays, value_and_grads
from tests.ops.test_full_kernels import tpu_mesh


def test_splash_attention_equals_ours(monkeypatch):
    """In interpretation: a pattern by heads, grouped queries, segments and padding, rows that see nothing."""
    interpreted = partial(splash_attention.make_splash_mha_single_device, interpret=True)
    monkeypatch.setattr(splash_attention, "make_splash_mha_single_device", interpreted)
    q, k, v, g = random_arrays((2, 256, 2, 8), *[(2, 256, 1, 8)] * 2, (2, 256, 2, 8), dtype=np.float32)
    ids = jnp.asarray(np.sort(np.random.default_rng(0).integers(0, 3, (2, 256))), jnp.int32)
    pattern = PerHead((Causal() & (SlidingWindow(20) | GlobalTokens((3,))), Strided(16)))

    def kernel(q, k, v):
        rules = Rules(ids, ids, (), None)
        return sparse_kernels._splash(AbstractMesh((), ()), pattern, 0, rules, q / np.sqrt(8), k, v)

    ours = partial(sparse_attention, pattern=pattern, segment_ids=ids, implementation="blocked")
    assert_close(value_and_grads(kernel, (q, k, v), g), value_and_grads(ours, (q, k, v), g), 1e-5)

    holes = from_mask(np.eye(256, k=-3, dtype=bool))
    out = sparse_kernels._splash(AbstractMesh((), ()), holes, 0, Rules(None, None, (), None), q, k, v)
    assert not np.asarray(out[:, :3]).any() and np.asarray(out[:, 3:]).any()


@pytest.mark.parametrize(
    "mesh, options, words",
    [
        (None, {}, "runs on tpu and the program is traced for cpu"),
        ({"data": 2}, {"bias": lambda query, key, head: 0.0 * key}, "no mask, bias or dropout"),
        ({"tensor": 2}, {"pattern": PerHead((Causal(), SlidingWindow(3)))}, "differs between heads"),
        (
            {"data": 2},
            {"pattern": ~SlidingWindow(3), "padding_mask": jnp.ones((2, 128), bool)},
            "every query has to see itself",
        ),
    ],
)
def test_a_kernel_that_cannot_serve_says_why(mesh, options, words):
    x = jnp.zeros((2, 128, 2, 64))
    with use_abstract_mesh(tpu_mesh(**mesh) if mesh else AbstractMesh((), ())):
        with pytest.raises(NotImplementedError, match=words):
            run = partial(sparse_attention, **{"pattern": Causal(), "implementation": "splash", **options})
            jax.eval_shape(run, x, x, x)


@pytest.mark.slow
def test_a_tpu_compiles_it():
    mesh = Mesh(np.array(topology_devices("v5e:2x4")), ("data",), axis_types=(AxisType.Auto,))
    x = jax.ShapeDtypeStruct((8, 1024, 2, 128), jnp.bfloat16, sharding=NamedSharding(mesh, P("data")))

    def step(pattern, q, k, v, g):
        return jax.vjp(partial(sparse_attention, pattern=pattern), q, k, v)[1](g)

    with jax.set_mesh(mesh):
        for pattern, kernels in ((Causal() & (SlidingWindow(255) | GlobalTokens((0,))), True), (Strided(64), False)):
            lowered = jax.jit(partial(step, pattern)).lower(x, x, x, x)
            assert ("tpu_custom_call" in lowered.as_text()) == kernels
            assert compile_for_topology(lowered).memory_analysis().temp_size_in_bytes < 2**30
