"""Which rows of a global batch a process reads, and how they become one global array."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from effjax.errors import UserError

BATCH = ("data", "fsdp")  # the mesh axes along which rows are split


def reader_share(mesh: Mesh) -> tuple[int, int]:
    """Which stretch of each batch this process reads: `(index, count)`.

    Processes that hold different features or positions of the same rows read the same stretch.

    Raises:
      UserError: the rows of a process are neither whole nor shared with whole processes.
    """
    local, inner = jax.local_device_count(), mesh.size // (mesh.shape[BATCH[0]] * mesh.shape[BATCH[1]])
    if local % inner and inner % local:
        raise UserError(f"config.mesh: tensor x sequence = {inner} does not fit the {local} devices of a process")
    sharing = max(inner // local, 1)
    return jax.process_index() // sharing, jax.process_count() // sharing


def global_rows(batch: dict[str, np.ndarray], mesh: Mesh, rows: int) -> dict[str, jax.Array]:
    """This process's stretch of a batch of `rows` rows as global arrays, split over the mesh's batch axes."""
    sharding = NamedSharding(mesh, PartitionSpec(BATCH))
    return {
        name: jax.make_array_from_process_local_data(sharding, array, (rows, *array.shape[1:]))
        for name, array in batch.items()
    }
