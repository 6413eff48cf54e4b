"""Time per token of a smaller model, one token at a time and whole windows; writes speed.json.

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
    config, calls, ids = load_config(f"{CONFIG}:{args.family}"), {}, jnp.zeros((1, 512), jnp.int32)
    for way, (model, params) in variants(config).items():
        whole = jax.jit(lambda params, ids, model=model: model.apply({"params": params}, ids)[0])
        one = jax.jit(lambda params, ids, state, model=model: model.apply({"params": params}, ids, state))
        state = model.initial_state(1, max_length=512)
        calls[way, "window"] = (lambda call=whole, own=params: call(own, ids), 512)
        calls[way, "token"] = (lambda call=one, own=params, state=state: call(own, ids[:, :1], state), 1)
    times = {key: [] for key in calls}
    for repeat in range(args.repeats + 1):
        for key, (call, tokens) in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if repeat:
                times[key].append(1e6 * (time.perf_counter() - start) / tokens)
    results = {f"{way} {what}": round(statistics.median(own), 1) for (way, what), own in times.items()}
    results |= {"device": jax.devices()[0].device_kind, "family": args.family, "unit": "microseconds per token"}
    print(json.dumps(results, indent=1))
    (HERE / "speed.json").write_text(json.dumps(results, indent=1) + "\n")


def variants(config) -> dict:
    """`(model, params)` of every way that has a form of its own: zeros are computed with as other numbers are."""
    task = make_task(config)
    params = jax.jit(task.init)(jax.random.key(0))
    kernels = select(find_kernels(task.init), (), field="rules")
    half, narrow = config.copy_and_resolve_references().unlock(), config.copy_and_resolve_references().unlock()
    half.dtype = "bfloat16"
    narrow.model.n_heads -= 1
    half, narrow = make_task(half.lock()), make_task(narrow.lock())
    ways = {
        "float32": (task.model, params),
        "bfloat16": (half.model, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)),
        "minus_1_head": (narrow.model, jax.jit(narrow.init)(jax.random.key(0))),
    }
    for mode in MODES:
        ways[mode] = (task.model, jax.jit(lambda params, mode=mode: quantize_params(params, kernels, mode, 32))(params))
    return ways


if __name__ == "__main__":
    sys.exit(cli.run(main))
