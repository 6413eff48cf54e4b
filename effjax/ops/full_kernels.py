"""The exact-attention kernels that JAX ships: Pallas splash attention on TPU, cuDNN on GPU.

They bring their own derivative, so they are chosen while tracing: for the platform of the mesh that `jax.set_mesh` set,
else for the default backend. A program traced for another machine without a mesh still runs, in the batched form.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, get_abstract_mesh
from jax.sharding import PartitionSpec as P

KERNELS = {"splash": "tpu", "cudnn": "gpu"}
BATCH_AXES = ("data", "fsdp")
HEADS_AXIS = "tensor"
LANES = 128  # splash attention works on whole vectors of the TPU
CUDNN_WIDTH = 128  # of a head, on every GPU that cuDNN's fused attention serves


def choose(implementation, q, k, query_ids, key_ids, *, causal, query_offset, plain):
    """Picks the kernel for a call.

    Returns a function of (q, k, v) with q already scaled, or None where the forms written here are to run.
    Raises NotImplementedError where a kernel is named that cannot serve.
    """
    mesh = get_abstract_mesh()
    traced_for = jax.default_backend() if mesh.empty else mesh.abstract_device.platform
    for name, platform in KERNELS.items():
        if implementation not in (None, name) or (implementation is None and platform != traced_for):
            continue
        reason = _refusal(name, platform, traced_for, mesh, q, k, key_ids, causal, query_offset, plain)
        if reason is None and name == "splash":
            return partial(_splash, mesh, query_ids, key_ids, causal, query_offset)
        if reason is None:
            return partial(jax.nn.dot_product_attention, scale=1.0, is_causal=causal, implementation="cudnn")
        if implementation == name:
            raise NotImplementedError(f"implementation={name!r} cannot serve: {reason}")
    return None


def _refusal(name, platform, traced_for, mesh, q, k, key_ids, causal, query_offset, plain):
    """Why a kernel cannot serve, or None."""
    (batch, length, _, _), (keys, groups) = q.shape, k.shape[1:3]
    if traced_for != platform:
        return f"it runs on {platform} and the program is traced for {traced_for} (`jax.set_mesh` says for which)"
    if not plain:
        return "it takes no mask, bias or dropout here"
    if name == "cudnn":
        if q.dtype not in (jnp.bfloat16, jnp.float16):
            return f"it computes in bfloat16 or float16, not {q.dtype}"
        if q.shape[-1] % 8 or q.shape[-1] > CUDNN_WIDTH:
            return f"its heads have a width of at most {CUDNN_WIDTH} that 8 divides, not {q.shape[-1]}"
        if key_ids is not None or not isinstance(query_offset, int) or query_offset or (causal and length != keys):
            return "it takes no padding, segments or query_offset here, and causal only with as many keys as queries"
        return None
    if q.dtype not in (jnp.bfloat16, jnp.float32):
        return f"it computes in bfloat16 or float32, not {q.dtype}"
    if length % LANES or keys % LANES:
        return f"{length} queries and {keys} keys are not both multiples of {LANES}"
    if causal and not (isinstance(query_offset, int) and query_offset >= 0):
        return f"query_offset is {query_offset}: it must be an integer known while tracing, at least 0"
    if mesh.empty:
        # XLA cannot partition a Mosaic kernel by itself.
        return None if jax.device_count() == 1 else "there are several devices and no mesh (`jax.set_mesh`)"
    batch_axes, heads_axes = _axes(mesh)
    shards = {name: size for name, size in _split_axes(mesh).items() if size > 1}
    idle = sorted(set(shards) - {*batch_axes, *heads_axes})
    if idle:
        return f"the mesh axes {idle} would stand idle"
    for axes, size, what in ((batch_axes, batch, "sequences"), (heads_axes, groups, "key heads")):
        for axis in axes:
            if size % mesh.shape[axis]:
                return f"the mesh axis {axis!r} of {mesh.shape[axis]} does not divide {size} {what}"
            size //= mesh.shape[axis]
    return None


def _split_axes(mesh):
    """The mesh axes that are not yet split by a `shard_map` around this call, with their sizes."""
    kinds = zip(mesh.axis_names, mesh.axis_types)
    return {name: mesh.shape[name] for name, kind in kinds if kind != AxisType.Manual}


def _axes(mesh):
    """The axes over which the kernel splits the batch, and those for the heads."""
    axes = _split_axes(mesh)
    return tuple(a for a in BATCH_AXES if a in axes), tuple(a for a in (HEADS_AXIS,) if a in axes)


def _splash(mesh, query_ids, key_ids, causal, query_offset, q, k, v):
    run = partial(_splash_on_one_device, causal=causal, query_offset=query_offset)
    if not mesh.empty and (names := set(_split_axes(mesh))):
        batch, heads = _axes(mesh)
        ids = None if key_ids is None else P(batch, None)
        run = jax.shard_map(
            run,
            in_specs=(*[P(batch, None, heads, None)] * 3, ids, ids),
            out_specs=P(batch, None, heads, None),
            axis_names=names,
            check_vma=False,
        )
    out = run(q, k, v, query_ids, key_ids)
    if key_ids is not None:
        last = jnp.arange(q.shape[1]) + query_offset if causal else jnp.full(q.shape[1], k.shape[1])
        seen = jax.vmap(_sees_a_key, in_axes=(0, 0, None))(query_ids, key_ids, last)
        out = jnp.where(seen[:, :, None, None], out, 0)
    return out


def _splash_on_one_device(q, k, v, query_ids, key_ids, *, causal, query_offset):
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    shape = (q.shape[1], k.shape[1])
    mask = splash.CausalMask(shape, offset=query_offset) if causal else splash.FullMask(shape)
    block_q, block_kv = (next(b for b in (512, 384, 256, LANES) if size % b == 0) for size in shape)
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([mask] * q.shape[2]),
        block_sizes=splash.BlockSizes(
            block_q=block_q,
            block_kv=block_kv,
            block_q_dkv=block_q,
            block_kv_dkv=block_kv,
            block_q_dq=block_q,
            block_kv_dq=block_kv,
        ),
    )
    segments = None if key_ids is None else splash.SegmentIds(query_ids, key_ids)
    out = jax.vmap(kernel)(q.swapaxes(1, 2), k.swapaxes(1, 2), v.swapaxes(1, 2), segments)
    return out.swapaxes(1, 2).astype(q.dtype)


def _sees_a_key(query_ids, key_ids, last):
    """Whether a key with the query's id stands at or before position `last`: the kernel's rows are noise if not."""
    order = jnp.argsort(key_ids, stable=True)
    ordered = key_ids[order]
    first = jnp.minimum(jnp.searchsorted(ordered, query_ids), key_ids.shape[0] - 1)
    return (ordered[first] == query_ids) & (order[first] <= last)
