"""Adaptive softmax against its definition in float64: losses, gradients, and what it does not compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from effjax.accounting.flops import count_flops
from effjax.ops.adaptive_softmax import Clusters, adaptive_log_probs, adaptive_nats, zipf_shares
from tests.ops.attention_oracle import assert_close, random_arrays, value_and_grads

SIZES, WIDTHS, D = (5, 7, 20), (6, 3, 2), 6
V = sum(SIZES)


def make(dtype=np.float64, projected=True):
    widths = WIDTHS if projected else (D,) * 3
    shapes = [
        *zip(SIZES, widths),
        *((size,) for size in SIZES),
        *((D, width) for width in widths),
        (2, widths[0]),
        (2,),
    ]
    arrays = random_arrays(*shapes, dtype=dtype)
    return Clusters(arrays[:3], arrays[3:6], arrays[6:9] if projected else (None,) * 3, *arrays[9:])


def log_probs(x, clusters):
    """Every id by itself."""
    parts = [x if p is None else x @ p for p in clusters.projections]
    head = jnp.concatenate([clusters.tables[0], clusters.tail_table])
    head = jax.nn.log_softmax(parts[0] @ head.T + jnp.concatenate([clusters.biases[0], clusters.tail_bias]))
    columns = [head[..., : SIZES[0]]]
    for i in (1, 2):
        tail = jax.nn.log_softmax(parts[i] @ clusters.tables[i].T + clusters.biases[i])
        columns += [head[..., SIZES[0] + i - 1, None] + tail]
    return jnp.concatenate(columns, -1)


def pick(log_probs, targets):
    return -jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]


TARGETS = {
    "mixed": np.random.default_rng(1).integers(0, V, (2, 13)),
    "no tails": np.random.default_rng(1).integers(0, SIZES[0], (2, 13)),
    "one tail only": np.full((2, 13), V - 1),
    "borders": np.tile([0, 4, 5, 11, 12, 31, 5, 5, 0, 12, 12, 11, 4], (2, 1)),
}


@jax.jit
def both(x, clusters, targets, g):
    """Ours and the definition: losses and gradients."""

    def run(nats):
        out, pull = jax.vjp(nats, x, clusters)
        return jax.tree.leaves((out, pull(g)))

    return (
        run(lambda x, c: adaptive_nats(x, targets, c, chunk_size=4)),
        run(lambda x, c: pick(log_probs(x, c), targets)),
    )


@pytest.mark.parametrize(
    ("name", "projected"), [("mixed", False), *((name, True) for name in TARGETS)], ids=["plain", *TARGETS]
)
def test_equals_the_definition(name, projected):
    targets = jnp.asarray(TARGETS[name], jnp.int32)
    with jax.enable_x64(True):
        clusters = make(projected=projected)
        x, g = random_arrays((*targets.shape, D), targets.shape, seed=1)
        assert_close(*both(x, clusters, targets, g), 1e-12)
        ours = adaptive_log_probs(x, clusters)
        assert_close([ours, jnp.exp(ours).sum(-1)], [log_probs(x, clusters), jnp.ones(targets.shape)], 1e-12)


def test_pieces_of_any_size_and_bf16():
    targets, clusters = jnp.asarray(TARGETS["mixed"], jnp.int32), make(np.float32)
    x = random_arrays((2, 13, D), dtype=np.float32)[0]
    expected = pick(log_probs(x, clusters), targets)
    ours = jax.jit(lambda x: [adaptive_nats(x, targets, clusters, chunk_size=chunk_size) for chunk_size in (1, 13, 50)])
    assert_close(ours(x), [expected] * 3, 1e-6)
    x = (1000 * x).astype(jnp.bfloat16)
    out = value_and_grads(lambda x, c: adaptive_nats(x, targets, c), (x, clusters), jnp.ones(targets.shape))
    assert out[0].dtype == jnp.float32 and out[1].dtype == jnp.bfloat16
    assert all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(out))


@pytest.mark.eight_devices
def test_four_devices_equal_one():
    mesh = jax.make_mesh(
        (2, 2), ("data", "sequence"), axis_types=(jax.sharding.AxisType.Auto,) * 2, devices=jax.devices()[:4]
    )
    targets, clusters = jnp.asarray(np.random.default_rng(1).integers(0, V, (2, 16)), jnp.int32), make(np.float32)
    x, g = random_arrays((2, 16, D), (2, 16), dtype=np.float32)

    @jax.jit
    def run(x, targets, g):
        out, pull = jax.vjp(lambda x, c: adaptive_nats(x, targets, c, chunk_size=4), x, clusters)
        return jax.tree.leaves((out, pull(g)))

    split = jax.device_put((x, targets, g), jax.NamedSharding(mesh, P("data", "sequence")))
    assert_close(run(*split), run(x, targets, g), 1e-6)


def test_a_tail_costs_as_much_as_it_is_used():
    """Far below the full softmax's work, by the shares of Zipf's law; and no logits of all positions at once."""
    sizes, width, length = (2000, 2000, 16000), 64, 512
    assert zipf_shares(sizes) == pytest.approx([0.781, 0.066, 0.153], abs=2e-3) and sum(zipf_shares(sizes)) == 1
    shapes = [*((size, width) for size in sizes), *((size,) for size in sizes), (2, width), (2,)]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    clusters = Clusters(arrays[:3], arrays[3:6], (None,) * 3, *arrays[6:])
    x, targets = jax.ShapeDtypeStruct((1, length, width), jnp.float32), jax.ShapeDtypeStruct((1, length), jnp.int32)
    loss = lambda x, c, t: jnp.sum(adaptive_nats(x, t, c, chunk_size=64))
    step = jax.grad(loss, argnums=(0, 1))
    full = 4 * 2 * length * width * sum(sizes)  # forward, forward again, and two products backward
    assert 0.1 * full < count_flops(step, x, clusters, targets) < 0.4 * full
    temp = jax.jit(step).lower(x, clusters, targets).compile().memory_analysis().temp_size_in_bytes
    assert temp < 4 * length * sum(sizes) / 4


def test_a_chunk_of_nothing_is_named():
    x, targets = jnp.zeros((1, 4, D)), jnp.zeros((1, 4), jnp.int32)
    with pytest.raises(ValueError, match="chunk_size=0"):
        adaptive_nats(x, targets, make(np.float32), chunk_size=0)
