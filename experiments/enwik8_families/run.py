"""Trains the families one after another; what is done is not done again, what was cut off goes on.

  python experiments/enwik8_families/run.py --data=enwik8.xz --seeds=0,1,2
  python experiments/enwik8_families/run.py --data=enwik8.xz --families=full,performer --seeds=0 --steps=400

Runs live in --workdir (not committed). Of each finished one, `metrics/FAMILY-SEED.json` keeps the curve, the score of
the test split's beginning: what report.py reads. Speed and memory: speed.py.
"""

import functools
import pathlib
import runpy
import sys
import time

import jax

from effjax import cli
from effjax.tasks import make_task
from effjax.training.config import load_config
from effjax.training.loop import train_to_the_end
from effjax.training.metrics import read_rows
from effjax.training.restore import restore_on_all_devices
from effjax.training.workdir import keep_result, open_workdir

HERE = pathlib.Path(__file__).parent
CONFIG = HERE / "config.py"


def main(argv=None) -> None:
    parser = cli.plain_parser("enwik8_families", __doc__)
    parser.add_argument("--data", required=True, help="the real enwik8: raw, .zip, .gz or .xz")
    parser.add_argument("--families", default="all", help="all, or names of config.py with commas")
    parser.add_argument("--seeds", default="0,1,2", help="with commas (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="training steps of a run (default: %(default)s)")
    parser.add_argument("--test_targets", type=int, default=65_536, help="bytes of the test split (default: 65536)")
    parser.add_argument("--workdir", default="runs/enwik8_families", help="(default: %(default)s)")
    parser.add_argument("--metrics", default=str(HERE / "metrics"), help="(default: beside this file)")
    args = parser.parse_args(argv)
    known = list(runpy.run_path(str(CONFIG))["FAMILIES"])
    names = cli.chosen("--families", args.families, known)
    metrics = pathlib.Path(args.metrics)
    for seed in map(int, args.seeds.split(",")):
        for name in names:
            keep_result(metrics / f"{name}-{seed}.json", functools.partial(run, name, seed, args))


def run(name: str, seed: int, args) -> dict:
    """Trains and scores one model."""
    config = load_config(f"{CONFIG}:{name}").unlock()
    config.seed, config.steps, config.data.path = seed, args.steps, args.data
    workdir = f"{args.workdir}/{name}-{seed}"
    start = time.monotonic()
    task = make_task(config.lock())
    train_to_the_end(task, config, workdir)
    seconds = time.monotonic() - start
    _, params, _ = restore_on_all_devices(task, workdir)
    rows = read_rows(open_workdir(workdir) / "metrics.jsonl")
    test = task.evaluate(params, "test", limit=args.test_targets)
    return {
        "family": name,
        "seed": seed,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "steps": args.steps,
        "training_bytes": args.steps * config.batch_size * config.data.length,
        "test": test,
        "valid": [(row["step"], row["valid/bits_per_byte"]) for row in rows if "valid/bits_per_byte" in row],
        "train": [(row["step"], row["train/bits_per_byte"]) for row in rows if "train/bits_per_byte" in row],
        "seconds": round(seconds, 1),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }


if __name__ == "__main__":
    sys.exit(cli.run(main))
