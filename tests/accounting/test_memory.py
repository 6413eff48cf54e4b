"""Bytes by hand against bytes as the compiler tells them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from effjax.accounting.memory import compiled_memory, readable_bytes, tree_bytes, tree_bytes_per_device

pytestmark = pytest.mark.eight_devices

X = jax.ShapeDtypeStruct((256, 512), jnp.float32)
BYTES = 256 * 512 * 4


def test_arguments_outputs_and_donation():
    plain = compiled_memory(lambda x: x + 1, X)
    assert (plain.arguments, plain.outputs, plain.aliased) == (BYTES, BYTES, 0)
    donated = compiled_memory(lambda x: x + 1, X, donate_argnums=0)
    assert donated.aliased == BYTES
    assert plain.total - donated.total == BYTES


def test_temporaries_hold_what_the_backward_pass_keeps():
    def loss(x):
        return jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, length=16)[0].sum()

    assert 16 * BYTES <= compiled_memory(jax.grad(loss), X).temp <= 20 * BYTES
    assert compiled_memory(loss, X).temp <= 3 * BYTES


def test_tree_bytes():
    tree = {"a": X, "b": [np.zeros(3, np.uint8), jax.ShapeDtypeStruct((), jnp.bfloat16)], "key": jax.random.key(0)}
    assert tree_bytes(tree) == BYTES + 3 + 2 + 8
    assert tree_bytes(jax.eval_shape(lambda: tree)) == tree_bytes(tree)


def test_bytes_per_device_are_those_of_one_shard():
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "fsdp"))
    sharded = [
        jax.ShapeDtypeStruct(X.shape, X.dtype, sharding=NamedSharding(mesh, P(*spec))) for spec in [(), ("fsdp",)]
    ]
    assert tree_bytes_per_device(sharded) == BYTES + BYTES // 4


def test_readable_bytes():
    assert [readable_bytes(n) for n in (0, 1023, 1536, 15.75 * 2**30)] == ["0 B", "1023 B", "1.5 KiB", "15.75 GiB"]
