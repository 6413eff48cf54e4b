"""Times the training steps of all families in turn, one thread, on an otherwise idle machine; writes speed.json.

  taskset -c 0 python experiments/enwik8_families/speed.py

Apart from the training runs, which may share the machine with anything. Adaptive spans: as they start.
"""

import json
import pathlib
import runpy
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from effjax import cli
from effjax.accounting.memory import memory_of
from effjax.tasks import make_task
from effjax.training.config import load_config
from effjax.training.optimizers import make_optimizer
from effjax.training.state import initial_state
from effjax.training.step import make_train_step

HERE = pathlib.Path(__file__).parent


def main(argv=None) -> None:
    parser = cli.plain_parser("enwik8_families/speed", __doc__)
    parser.add_argument("--repeats", type=int, default=7, help="timed steps of each family (default: %(default)s)")
    args = parser.parse_args(argv)
    steps, memory, times = {}, {}, {}
    for name in runpy.run_path(str(HERE / "config.py"))["FAMILIES"]:
        steps[name], memory[name] = compiled(name)
        times[name] = []
    for repeat in range(args.repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            tokens = step()
            if repeat:
                times[name].append(tokens / (time.perf_counter() - start))
    results = {
        name: {"tokens_per_second": round(statistics.median(times[name])), "step_bytes": memory[name]} for name in steps
    }
    print(json.dumps(results, indent=1))
    (HERE / "speed.json").write_text(json.dumps(results, indent=1) + "\n")


def compiled(name: str):
    """One family's step as a function without arguments that returns the tokens it saw, and the step's bytes."""
    config = load_config(f"{HERE / 'config.py'}:{name}")
    task, optimizer = make_task(config), make_optimizer(config)
    state = jax.jit(lambda key: initial_state(task, optimizer, config, key))(jax.random.key(0))
    rng = np.random.default_rng(0)
    batch = jax.tree.map(lambda x: jnp.asarray(rng.integers(0, 128, x.shape), x.dtype), task.abstract_batch())
    step = jax.jit(make_train_step(task, optimizer, config), donate_argnums=0).lower(state, batch).compile()
    held = [state]

    def run():
        held[0] = jax.block_until_ready(step(held[0], batch)[0])
        return config.batch_size * config.data.length

    return run, memory_of(step).total


if __name__ == "__main__":
    sys.exit(cli.run(main))
