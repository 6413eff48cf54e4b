"""Many processes, one program: starting them, sharing out the data, stopping together."""

import signal

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from effjax.errors import UserError
from effjax.training.sharding import BATCH


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connects the processes of a run; call it before anything touches a device.

    On Cloud TPU nothing needs to be said; elsewhere all three, or none for a single process.

    Args:
      coordinator: `host:port` of process 0, the same in every process.
      num_processes: how many there are.
      process_id: which one this is, from 0.

    Raises:
      UserError: some of the three are missing.
    """
    given = [coordinator is not None, num_processes is not None, process_id is not None]
    if any(given) and not all(given):
        raise UserError("--coordinator, --num_processes and --process_id belong together: give all three or none")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if all(given):
        jax.distributed.initialize(coordinator, num_processes, process_id)
    elif "tpu" in (jax.config.jax_platforms or ""):  # JAX sets it where it finds Cloud TPU chips
        jax.distributed.initialize()


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


def global_batches(reader, start_step: int, abstract_batch, shardings):
    """Batches as global arrays, from the share of each that this process reads."""
    for batch in reader.iterate(start_step):
        yield {
            name: jax.make_array_from_process_local_data(shardings[name], batch[name], abstract_batch[name].shape)
            for name in shardings
        }


class Preemption:
    """Turns SIGTERM (and Ctrl-C) into a question asked between steps; use it as a context.

    A single process notes the signal; several agree, through JAX's coordination service, on one step to stop at.
    """

    def __enter__(self):
        self._noticed = False
        signals = (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else ()
        self._previous = {number: signal.signal(number, self._notice) for number in signals}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _notice(self, number, _):
        self._noticed = True
        signal.signal(number, self._previous[number])  # a second signal is not waited for

    def reached(self, step: int) -> bool:
        """True when this is the step to stop after; every process asks after every step."""
        return self._noticed if jax.process_count() == 1 else multihost_utils.reached_preemption_sync_point(step)
