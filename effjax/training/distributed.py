"""Many processes, one program: starting them, joining the data they read, stopping together."""

import signal

import jax
from jax.experimental import multihost_utils

from effjax.errors import UserError


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


def global_batches(reader, start_step: int, abstract_batch):
    """Batches as global arrays, of the shapes and shardings given, from the share of each that this process reads."""
    for batch in reader.iterate(start_step):
        yield {
            name: jax.make_array_from_process_local_data(array.sharding, batch[name], array.shape)
            for name, array in abstract_batch.items()
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
