"""The FLOP counter against hand formulas, and against XLA's own count on code without loops."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec as P

from effjax.accounting.flops import Flops, count_flops, flop_breakdown

Shape = jax.ShapeDtypeStruct
M, K, N = 16, 32, 64


def floats(*shape):
    return Shape(shape, jnp.float32)


def xla_flops(fn, *args):
    return jax.jit(fn).lower(*args).compile().cost_analysis()["flops"]


def test_matrix_product_is_2mnk_as_for_xla():
    product = jnp.matmul
    assert flop_breakdown(product, floats(M, K), floats(K, N)) == Flops(matmul=2 * M * K * N)
    assert count_flops(product, floats(M, K), floats(K, N)) == xla_flops(product, floats(M, K), floats(K, N))


def test_batched_product_counts_every_batch_entry():
    heads = functools.partial(jnp.einsum, "btnh,bsnh->bnts")
    q, k = floats(2, 8, 4, 16), floats(2, 12, 4, 16)
    assert count_flops(heads, q, k) == 2 * (2 * 4) * 8 * 12 * 16 == xla_flops(heads, q, k)


@pytest.mark.parametrize("groups", [1, 4])
def test_convolution_is_two_per_input_seen(groups):
    conv = functools.partial(
        lax.conv_general_dilated,
        window_strides=(1,),
        padding="VALID",
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=groups,
    )
    x, w = floats(2, 20, 8), floats(5, 8 // groups, 16)
    assert flop_breakdown(conv, x, w).matmul == 2 * (2 * 16 * 16) * 5 * (8 // groups) == xla_flops(conv, x, w)


def test_gradient_of_an_unrolled_network_matches_xla():
    def loss(w1, w2, x):
        return jnp.sum(jax.nn.relu(x @ w1) @ w2)

    args = floats(K, N), floats(N, K), floats(M, K)
    counted = flop_breakdown(jax.value_and_grad(loss, argnums=(0, 1)), *args)
    assert counted.matmul == 5 * 2 * M * K * N  # two forward, one more for w1, two for the layer above it
    assert counted.total == pytest.approx(xla_flops(jax.value_and_grad(loss, argnums=(0, 1)), *args), rel=0.05)


def test_dead_code_is_free():
    def value_is_unused(w, x):
        return jax.grad(lambda w: jnp.sum(x @ w))(w)

    assert flop_breakdown(value_is_unused, floats(K, N), floats(M, K)).matmul == 2 * M * K * N


def test_elementwise_reductions_and_movement():
    assert flop_breakdown(lambda x: jnp.exp(x) + 1, floats(M, K)) == Flops(elementwise=2 * M * K)
    assert flop_breakdown(lambda x: x.sum(0), floats(M, K)) == Flops(elementwise=M * K)
    assert flop_breakdown(lambda x: jnp.cumsum(x, 1), floats(M, K)) == Flops(elementwise=M * K)
    assert flop_breakdown(lambda x: jnp.sort(x, 1), floats(M, K)) == Flops(elementwise=M * K * 5)
    assert flop_breakdown(lambda x: x.T.reshape(-1)[::2].astype(jnp.bfloat16), floats(M, K)) == Flops()
    scattered = flop_breakdown(lambda x, i, u: x.at[i].add(u), floats(100), Shape((3,), jnp.int32), floats(3))
    assert 3 <= scattered.total <= 12  # the updates, and the wrapping of negative indices


def square(x):
    return x @ x


def test_scan_is_its_body_times_its_length():
    def fn(x):
        return lax.scan(lambda c, _: (square(c), None), x, length=7)[0]

    assert count_flops(fn, floats(M, M)) == 7 * 2 * M**3
    assert xla_flops(fn, floats(M, M)) < 2 * 2 * M**3  # why this counter exists
    assert flop_breakdown(jax.grad(lambda x: fn(x).sum()), floats(M, M)).matmul == 3 * 7 * 2 * M**3


def loop(x, trips, mean_trips):
    with jax.named_scope(f"mean_trips={mean_trips:g}"):
        return lax.fori_loop(0, trips, lambda i, c: square(c), x)


def test_while_takes_its_mean_trips_from_the_scope():
    fn = functools.partial(loop, mean_trips=4.5)
    trips = Shape((), jnp.int32)
    assert flop_breakdown(fn, floats(M, M), trips).matmul == 4.5 * 2 * M**3
    batched = jax.vmap(jax.jit(jax.checkpoint(fn)))
    assert flop_breakdown(batched, floats(3, M, M), Shape((3,), jnp.int32)).matmul == 3 * 4.5 * 2 * M**3


def test_mean_trips_multiply_with_an_outer_scan_and_inner_loop():
    def fn(x, trips):
        with jax.named_scope("mean_trips=2.5e+00"):
            return lax.fori_loop(0, trips, lambda i, c: loop(c, trips, 4), x)

    nested = lambda x, trips: lax.scan(lambda c, _: (fn(c, trips), None), x, length=3)[0]
    assert flop_breakdown(nested, floats(M, M), Shape((), jnp.int32)).matmul == 3 * 2.5 * 4 * 2 * M**3


def test_a_loop_of_unknown_length_is_refused_with_its_place():
    fn = lambda x, trips: lax.fori_loop(0, trips, lambda i, c: square(c), x)
    with pytest.raises(ValueError, match=r"test_flops\.py.*mean_trips"):
        count_flops(fn, floats(M, M), Shape((), jnp.int32))


def test_conditional_is_its_dearest_branch():
    fn = lambda p, x: lax.cond(p, square, lambda x: x + 1, x)
    assert flop_breakdown(fn, Shape((), jnp.bool_), floats(M, M)).matmul == 2 * M**3


def test_platform_dependent_code_is_counted_for_the_platform_asked_for():
    @jax.custom_vjp
    def fn(x):
        return lax.platform_dependent(x, cpu=square, default=lambda x: square(square(x)))

    fn.defvjp(
        lambda x: (fn(x), x), lambda x, g: (lax.platform_dependent(g, cpu=lambda g: g @ x, default=lambda g: 2 * g),)
    )
    x = floats(M, M)
    assert count_flops(fn, x, platform="cpu") == 2 * M**3
    assert count_flops(fn, x, platform="tpu") == 2 * 2 * M**3
    both = jax.value_and_grad(lambda x: fn(x).sum())
    assert flop_breakdown(both, x, platform="cpu").matmul == 2 * 2 * M**3
    assert flop_breakdown(both, x, platform="cuda").matmul == 2 * 2 * M**3


def test_shard_map_counts_every_device_of_its_manual_axes():
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rows = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"), axis_names={"data"})
    assert flop_breakdown(rows, floats(M, K), floats(K, N)).matmul == 2 * M * K * N


@pytest.mark.parametrize("estimate", [None, pl.CostEstimate(flops=1000, transcendentals=7, bytes_accessed=1)])
def test_pallas_kernels_answer_for_themselves(estimate):
    def kernel(x, w, out):
        out[...] = x[...] @ w[...]

    call = pl.pallas_call(
        kernel,
        grid=(M // 8,),
        in_specs=[pl.BlockSpec((8, K), lambda i: (i, 0)), pl.BlockSpec((K, N), lambda i: (0, 0))],
        out_specs=pl.BlockSpec((8, N), lambda i: (i, 0)),
        out_shape=floats(M, N),
        cost_estimate=estimate,
    )
    expected = Flops(matmul=2 * M * K * N) if estimate is None else Flops(kernel=1007)
    assert flop_breakdown(call, floats(M, K), floats(K, N)) == expected
