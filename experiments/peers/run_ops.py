"""Times attention, forward and backward, of effjax and of PyTorch packages, interleaved in one process.

  pip install -e . -r experiments/peers/requirements.txt
  taskset -c 0 python experiments/peers/run_ops.py --lengths=1024,4096

One thread on each side (pin the process to a core), float32, batch 1, 8 heads of 64. Writes ops.json beside this file;
what is there already is measured again only with --again.
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

HERE = pathlib.Path(__file__).parent
HEADS, WIDTH = 8, 64


def main(argv=None) -> None:
    parser = cli.plain_parser("peers/run_ops", __doc__)
    parser.add_argument("--lengths", default="1024,2048,4096,8192,16384", help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls each (default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="measure anew what is there already")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    path = HERE / "ops.json"
    results = json.loads(path.read_text()) if path.exists() else {"settings": settings(), "lengths": {}}
    for length in map(int, args.lengths.split(",")):
        rows = results["lengths"].setdefault(str(length), {})
        for case in OURS:
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


def measure(case: str, length: int, repeats: int) -> dict:
    """Median milliseconds of every contender, or what went wrong; and the rate of a matrix product beside them."""
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(1, length, HEADS, WIDTH)).astype(np.float32) for _ in range(4)]
    contenders, failed = {"effjax": ours(case, length, arrays), "matmul": matmul()}, {}
    for name, make in PEERS[case].items():
        contenders[name] = theirs(make, length, arrays)
    times = {name: [] for name in contenders}
    for repeat in range(repeats + 2):
        for name, run in contenders.items():
            if name in failed:
                continue
            start = time.perf_counter()
            try:
                run()
            except Exception as problem:
                failed[name] = f"{type(problem).__name__}: {str(problem).splitlines()[0][:120]}"
                continue
            if repeat >= 2:
                times[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in times.items() if values}
    rate = 2 * 1024**3 / medians.pop("matmul") / 1e6
    share = FLOPS[case](length) * HEADS * WIDTH / medians["effjax"] / 1e6 / rate
    row = {"milliseconds": medians, "failed": failed, "matmul_gflops": rate, "share_of_matmul": share}
    best = min((medians[name] for name in medians if name != "effjax"), default=math.nan)
    print(
        f"{length:>6} {case:<22} ratio {medians['effjax'] / best:.2f}, share {share:.2f}", medians, failed, flush=True
    )
    return row


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


def matmul():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1024, 1024)), jnp.float32)
    product = jax.jit(lambda a, b: a @ b)
    return lambda: jax.block_until_ready(product(x, x))


if __name__ == "__main__":
    sys.exit(cli.run(main))
