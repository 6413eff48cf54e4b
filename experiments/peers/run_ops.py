"""Times attention, forward and backward, of effjax and of PyTorch packages, interleaved in one process.

  pip install -e . -r experiments/peers/requirements.txt
  taskset -c 0 python experiments/peers/run_ops.py --lengths=1024,4096

One thread on each side (pin the process to a core), float32, batch 1, 8 heads of 64. Writes ops.json beside this file.
With --alone effjax's own are timed beside products of two 1024 x 1024 matrices, as shares of their rate: shares.json.
There freed memory is kept, as in `effjax.train`; side by side both have the system's defaults.
What is there already is measured again only with --again.
"""

import json
import math
import pathlib
import platform
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch
from our_ops import FLOPS, OURS
from torch_ops import PEERS

from effjax import cli
from effjax.allocator import keep_freed_memory

HERE = pathlib.Path(__file__).parent
HEADS, WIDTH = 8, 64
PRODUCTS = 8  # in one timed call
LONG = 20  # seconds; such a call is made once, and counts


def main(argv=None) -> None:
    parser = cli.plain_parser("peers/run_ops", __doc__)
    parser.add_argument("--lengths", default="1024,2048,4096,8192,16384", help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls each (default: %(default)s)")
    parser.add_argument("--alone", action="store_true", help="effjax beside a matrix product, no peers")
    parser.add_argument("--again", action="store_true", help="measure anew what is there already")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.alone:
        keep_freed_memory()
    path, measure = (HERE / "shares.json", share) if args.alone else (HERE / "ops.json", side_by_side)
    results = json.loads(path.read_text()) if path.exists() else {"settings": settings(), "lengths": {}}
    for length in map(int, args.lengths.split(",")):
        rows = results["lengths"].setdefault(str(length), {})
        for case in OURS if args.alone else PEERS:
            if case not in rows or args.again:
                rows[case] = measure(case, length, args.repeats)
                path.write_text(json.dumps(results, indent=1) + "\n")


def settings() -> dict:
    return {
        "machine": platform.machine(),
        "jax": jax.__version__,
        "torch": torch.__version__,
        "heads": HEADS,
        "width": WIDTH,
    }


def side_by_side(case: str, length: int, repeats: int) -> dict:
    """Median milliseconds of every contender, or what went wrong."""
    arrays = draw(length)
    contenders = {"effjax": ours(case, length, arrays)}
    contenders |= {name: theirs(make, length, arrays) for name, make in PEERS[case].items()}
    medians, failed = time_in_turn(contenders, repeats)
    best = min((medians[name] for name in medians if name != "effjax"), default=math.nan)
    print(f"{length:>6} {case:<22} ratio {medians['effjax'] / best:.2f}", medians, failed, flush=True)
    return {"milliseconds": medians, "failed": failed}


def share(case: str, length: int, repeats: int) -> dict:
    """Useful FLOPs a second, forward and backward, over those of a matrix product in the same run."""
    medians, _ = time_in_turn({"effjax": ours(case, length, draw(length)), "product": product()}, repeats)
    rate = PRODUCTS * 2 * 1024**3 / medians["product"] / 1e6
    row = {
        "milliseconds": medians["effjax"],
        "product_gflops": rate,
        "share": FLOPS[case](length) * HEADS * WIDTH / medians["effjax"] / 1e6 / rate,
    }
    print(f"{length:>6} {case:<22}", row, flush=True)
    return row


def time_in_turn(contenders: dict, repeats: int) -> tuple[dict, dict]:
    """Median milliseconds of calls that take turns, after two that do not count; and what failed, and why."""
    times, failed = {name: [] for name in contenders}, {}
    for repeat in range(repeats + 2):
        for name, run in contenders.items():
            if name in failed or max(times[name], default=0) > 1e3 * LONG:
                continue
            start = time.perf_counter()
            try:
                run()
            except Exception as problem:
                failed[name] = f"{type(problem).__name__}: {str(problem).splitlines()[0][:120]}"
                continue
            seconds = time.perf_counter() - start
            if repeat >= 2 or seconds > LONG:
                times[name].append(1e3 * seconds)
    return {name: statistics.median(values) for name, values in times.items() if values}, failed


def draw(length: int) -> list[np.ndarray]:
    """Queries, keys, values and the gradient of what comes out."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=(1, length, HEADS, WIDTH)).astype(np.float32) for _ in range(4)]


def ours(case, length, arrays):
    attend = OURS[case](length, HEADS, WIDTH)
    q, k, v, g = map(jnp.asarray, arrays)

    @jax.jit
    def step(q, k, v, g):
        out, pullback = jax.vjp(attend, q, k, v)
        return out, pullback(g)

    return lambda: jax.block_until_ready(step(q, k, v, g))


def theirs(make, length, arrays):
    q, k, v, g = (torch.from_numpy(x).transpose(1, 2).contiguous() for x in arrays)
    for x in (q, k, v):
        x.requires_grad_()
    attend = []

    def run():
        if not attend:
            attend.append(make(length, HEADS, WIDTH))
        for x in (q, k, v):
            x.grad = None
        out = attend[0](q, k, v)
        out.backward(g.reshape(out.shape) if out.numel() == g.numel() else torch.ones_like(out))

    return run


def product():
    """Several products of matrices: one alone would be shorter than what a scheduler takes away."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1024, 1024)), jnp.float32)
    one = jax.jit(lambda a, b: a @ b)
    return lambda: jax.block_until_ready([one(x, x) for _ in range(PRODUCTS)])


if __name__ == "__main__":
    sys.exit(cli.run(main))
