"""What acts on the logits and weights of a block besides the pattern: documents, padding, position bias, dropout."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt32

from effjax.ops.masking import MASKED


class Rules(NamedTuple):
    """Arrays that decide; None where there is no rule."""

    query_ids: Int[Array, "B T"] | None  # a query sees only the keys that carry its id
    key_ids: Int[Array, "B S"] | None
    bias_arrays: tuple[Any, ...]  # what the bias reads
    seed: UInt32[Array, "2"] | None  # of the dropout


@dataclass(frozen=True, eq=False)
class Options:
    """What is known while tracing."""

    bias: Callable[..., Any] | None  # (query, key, head, *bias_arrays) -> float, on scalars
    dropout_rate: float


class Block(NamedTuple):
    """Where a block of logits [queries, keys] stands: positions and ids of its rows and columns, head and example."""

    query: Int[Array, " Q"]
    key: Int[Array, " K"]
    query_ids: Int[Array, " Q"] | None
    key_ids: Int[Array, " K"] | None
    head: Any
    row: Any  # example * heads + head


def add_bias(options: Options, arrays, s, block: Block, *, transposed: bool):
    """Logits with the position bias."""
    if options.bias is None:
        return s
    return s + bias_block(options, arrays, block, transposed=transposed).astype(s.dtype)


def bias_block(options: Options, arrays, block: Block, *, transposed: bool):
    """The bias of a block, [queries, keys] or transposed."""

    def one(query, key):
        return options.bias(query, key, jnp.asarray(block.head, jnp.int32), *arrays)

    if transposed:
        return jax.vmap(lambda key: jax.vmap(lambda query: one(query, key))(block.query))(block.key)
    return jax.vmap(lambda query: jax.vmap(lambda key: one(query, key))(block.key))(block.query)


def mask_ids(s, block: Block, *, transposed: bool):
    """Logits, MASKED where query and key carry different ids."""
    if block.query_ids is None:
        return s
    same = block.query_ids[:, None] == block.key_ids[None, :]
    return jnp.where(same.T if transposed else same, s, MASKED)


def keep_factors(options: Options, seed, block: Block, dtype, *, transposed: bool):
    """Dropout as factors, a function of example, head, query and key: the same in every order and in both passes."""
    threshold = round(options.dropout_rate * 2**16)
    rows = _mix(_mix(seed[0] + jnp.asarray(block.row).astype(jnp.uint32)) + block.query.astype(jnp.uint32))
    columns = block.key.astype(jnp.uint32) * jnp.uint32(0x9E3779B1) + seed[1]
    pairs = rows[None, :] ^ columns[:, None] if transposed else rows[:, None] ^ columns[None, :]
    kept = (_mix(pairs) >> 16) >= jnp.uint32(threshold)
    return jnp.where(kept, jnp.asarray(1 / (1 - threshold / 2**16), dtype), 0)


def _mix(x):
    """Spreads every bit of uint32 over all (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
