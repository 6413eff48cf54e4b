"""The shipped kernels: when they are chosen, why they refuse, and that their rows that see nothing are 0 too."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

from effjax.ops import full_kernels
from effjax.ops.full import full_attention
from effjax.ops.masking import pair_ids
from tests.ops.attention_oracle import assert_close, random_arrays, value_and_grads


def tpu_mesh(**axes):
    device = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
    kinds = (AxisType.Auto,) * len(axes)
    return AbstractMesh(tuple(axes.values()), tuple(axes), axis_types=kinds, abstract_device=device)


def kernels_lowered_for_tpu(shape, **options):
    """How many Mosaic kernels the forward and backward pass hold."""
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)

    def step(q, k, v, g):
        return jax.vjp(partial(full_attention, causal=True, **options), q, k, v)[1](g)

    return jax.jit(step).trace(x, x, x, x).lower(lowering_platforms=("tpu",)).as_text().count("tpu_custom_call")


def test_tpu_programs_use_splash_attention_where_it_serves():
    shape = (4, 256, 2, 64)
    with use_abstract_mesh(tpu_mesh(data=4, tensor=2)):
        assert kernels_lowered_for_tpu(shape) == 3  # forward, dq, dk and dv
        assert kernels_lowered_for_tpu(shape, padding_mask=jnp.ones((4, 256), bool)) == 3
        assert kernels_lowered_for_tpu(shape, mask=jnp.ones((1, 1, 256, 256), bool)) == 0
        assert kernels_lowered_for_tpu((4, 250, 2, 64)) == 0
        assert kernels_lowered_for_tpu((2, 256, 2, 64)) == 0
    with use_abstract_mesh(tpu_mesh(data=4, sequence=2)):
        assert kernels_lowered_for_tpu(shape) == 0
    assert kernels_lowered_for_tpu(shape) == 0  # no mesh: traced for the CPU, still lowered for the TPU


@pytest.mark.parametrize(
    "mesh, options, words",
    [
        (None, {"implementation": "splash"}, "runs on tpu and the program is traced for cpu"),
        (None, {"implementation": "cudnn"}, "runs on gpu and the program is traced for cpu"),
        ({"data": 2}, {"implementation": "splash", "bias": jnp.zeros((1, 1, 1, 128))}, "no mask, bias or dropout"),
        ({"sequence": 2}, {"implementation": "splash"}, "'sequence'"),
        ({"tensor": 4}, {"implementation": "splash"}, "'tensor' of 4 does not divide 2 key heads"),
        ({"data": 2}, {"implementation": "splash", "causal": True, "query_offset": -1}, "query_offset is -1"),
    ],
)
def test_a_named_kernel_that_cannot_serve_says_why(mesh, options, words):
    x = jnp.zeros((2, 128, 2, 64))
    with use_abstract_mesh(tpu_mesh(**mesh) if mesh else AbstractMesh((), ())):
        with pytest.raises(NotImplementedError, match=words):
            jax.eval_shape(partial(full_attention, **options), x, x, x)


def test_splash_attention_equals_ours(monkeypatch):
    """In interpretation: grouped queries, an offset, segments, padding, and rows that see nothing."""
    interpreted = partial(splash_attention.make_splash_mha_single_device, interpret=True)
    monkeypatch.setattr(splash_attention, "make_splash_mha_single_device", interpreted)
    wide, narrow = (2, 128, 2, 8), (2, 256, 1, 8)
    q, k, v, g = random_arrays(wide, narrow, narrow, wide, dtype=np.float32)
    rng = np.random.default_rng(0)
    padding = jnp.arange(256) < jnp.array([[200], [0]])
    query_ids, key_ids = jnp.asarray(rng.integers(0, 4, (2, 128))), jnp.asarray(rng.integers(0, 3, (2, 256)))
    ids = pair_ids(padding, query_ids, key_ids, 128)

    def kernel(q, k, v):
        return full_kernels._splash(AbstractMesh((), ()), *ids, True, 60, q / np.sqrt(8), k, v)

    ours = partial(
        full_attention,
        causal=True,
        query_offset=60,
        padding_mask=padding,
        segment_ids=query_ids,
        key_segment_ids=key_ids,
    )
    assert_close(value_and_grads(kernel, (q, k, v), g), value_and_grads(ours, (q, k, v), g), 1e-5)


def test_on_a_gpu_heads_that_cudnn_cannot_take_are_left_to_the_batched_form(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

    def choose(width, implementation=None):
        x = jnp.zeros((1, 16, 2, width), jnp.bfloat16)
        return full_kernels.choose(implementation, x, x, None, None, causal=True, query_offset=0, plain=True)

    assert choose(64) is not None
    assert choose(12) is None and choose(136) is None
    with pytest.raises(NotImplementedError, match="width of at most 128 that 8 divides, not 12"):
        choose(12, "cudnn")
