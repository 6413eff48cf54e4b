"""Time per token of a quantised model, one token at a time and whole windows; writes speed.json.

  python experiments/compression/speed.py

Random weights in the shapes of experiments/enwik8_families: time does not depend on what they are.
"""

import json
import pathlib
import statistics
import sys
import time

import jax
import jax.numpy as jnp

from effjax import cli
from effjax.compression.kernels import find_kernels, select
from effjax.compression.quantize import MODES, quantize_params
from effjax.tasks import make_task
from effjax.training.config import load_config

HERE = pathlib.Path(__file__).parent
CONFIG = HERE.parent / "enwik8_families" / "config.py"


def main(argv=None) -> None:
    parser = cli.plain_parser("compression/speed", __doc__)
    parser.add_argument("--family", default="full", help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each (default: %(default)s)")
    args = parser.parse_args(argv)
    task = make_task(load_config(f"{CONFIG}:{args.family}"))
    params = jax.jit(task.init)(jax.random.key(0))
    kernels = select(find_kernels(task.init), (), field="rules")
    model, calls = task.model, {}
    whole = jax.jit(lambda params, ids: model.apply({"params": params}, ids)[0])
    one = jax.jit(lambda params, ids, state: model.apply({"params": params}, ids, state))
    for mode in ("float32", *MODES):
        own = params
        if mode != "float32":
            own = jax.jit(lambda params, mode=mode: quantize_params(params, kernels, mode, 32))(params)
        ids, state = jnp.zeros((1, 512), jnp.int32), model.initial_state(1, max_length=512)
        calls[mode, "window"] = (lambda own=own, ids=ids: whole(own, ids), 512)
        calls[mode, "token"] = (lambda own=own, ids=ids, state=state: one(own, ids[:, :1], state), 1)
    times = {key: [] for key in calls}
    for repeat in range(args.repeats + 1):
        for key, (call, tokens) in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if repeat:
                times[key].append(1e6 * (time.perf_counter() - start) / tokens)
    results = {f"{mode} {what}": round(statistics.median(own), 1) for (mode, what), own in times.items()}
    results |= {"device": jax.devices()[0].device_kind, "family": args.family, "unit": "microseconds per token"}
    print(json.dumps(results, indent=1))
    (HERE / "speed.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(cli.run(main))
