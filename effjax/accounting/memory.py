"""Bytes of a compiled computation and of trees of arrays, without running or allocating anything."""

import dataclasses
import math

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes that a compiled computation holds on each device, by kind.

    Attributes:
      arguments, outputs: inputs and results.
      aliased: part of the outputs that reuses donated arguments.
      temp: everything live only inside: activations, gradients, loop buffers.
      code: the program, where it lies in device memory.
    """

    arguments: int
    outputs: int
    aliased: int
    temp: int
    code: int

    @property
    def total(self) -> int:
        """Bytes needed at once: arguments + outputs - aliased + temp + code."""
        return self.arguments + self.outputs - self.aliased + self.temp + self.code


def memory_of(compiled: jax.stages.Compiled) -> Memory:
    """The memory of `jax.jit(fn).lower(...).compile()`, as its compiler planned it for one device."""
    stats = compiled.memory_analysis()
    return Memory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        temp=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
    )


def compiled_memory(fn, *args, donate_argnums=()) -> Memory:
    """Compiles `fn` for arguments of these shapes on the default backend and returns its `Memory`."""
    return memory_of(jax.jit(fn, donate_argnums=donate_argnums).lower(*args).compile())


def tree_bytes(tree) -> int:
    """Bytes of all arrays (or `jax.ShapeDtypeStruct`s) of a tree; a PRNG key counts its raw words."""
    return sum(math.prod(leaf.shape) * _item_bytes(leaf) for leaf in jax.tree.leaves(tree))


def tree_bytes_per_device(tree) -> int:
    """Bytes of the shards that one device holds of a tree of arrays or shapes with a `sharding`."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * _item_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _item_bytes(leaf) -> int:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct((), leaf.dtype)).size * 4
    return leaf.dtype.itemsize


def readable_bytes(count: float) -> str:
    """`1536 -> "1.5 KiB"`: four significant digits in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"
