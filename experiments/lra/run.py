"""Trains a task of the arena with one mixer after another; what is done is not done again, what was cut off goes on.

  python experiments/lra/run.py --task=text --data=aclImdb_v1.tar.gz
  python experiments/lra/run.py --task=listops --mixers=full,performer --seeds=0,1 --steps=1000

Runs live in --workdir (not committed). Of each finished one, `metrics/TASK-MIXER-SEED.json` keeps the curve and the
score of the test split's beginning: what report.py reads.
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
    settings = runpy.run_path(str(CONFIG))
    known = settings["MIXERS"]
    parser = cli.plain_parser("lra", __doc__)
    parser.add_argument("--task", required=True, choices=tuple(settings["STEPS"]))
    parser.add_argument("--data", default="", help="Text: the folder or archive aclImdb; else TensorFlow Datasets")
    parser.add_argument("--mixers", default=",".join(known), help="with commas (default: %(default)s)")
    parser.add_argument("--seeds", default="0", help="with commas (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=0, help="training steps of a run (default: config.py's)")
    parser.add_argument("--pooling", default="cls", help="cls, as in the arena, or mean (default: %(default)s)")
    parser.add_argument("--test_examples", type=int, default=1000, help="of the test split (default: %(default)s)")
    parser.add_argument("--workdir", default="runs/lra", help="(default: %(default)s)")
    parser.add_argument("--metrics", default=str(HERE / "metrics"), help="(default: beside this file)")
    args = parser.parse_args(argv)
    names = cli.chosen("--mixers", args.mixers, known)
    metrics, task = pathlib.Path(args.metrics), None
    for seed in map(int, args.seeds.split(",")):
        for name in names:
            path = metrics / f"{args.task}-{name}-{seed}.json"
            if not path.exists():
                config = load_config(f"{CONFIG}:{args.task}").unlock()
                config.seed, config.mixer, config.data.path = seed, name, args.data
                config.steps, config.options.pooling = args.steps or config.steps, args.pooling
                task = task.at_stage(config.lock()) if task else make_task(config.lock())  # reads the data once
                keep_result(path, functools.partial(run, task, args))


def run(task, args) -> dict:
    """Trains and scores one model."""
    config = task.config
    workdir = f"{args.workdir}/{args.task}-{config.mixer}-{config.seed}"
    start = time.monotonic()
    train_to_the_end(task, config, workdir)
    seconds = time.monotonic() - start
    _, params, _ = restore_on_all_devices(task, workdir)
    rows = read_rows(open_workdir(workdir) / "metrics.jsonl")
    speeds = sorted(row["train/tokens_per_second"] for row in rows if "train/tokens_per_second" in row)
    return {
        "task": args.task,
        "mixer": config.mixer,
        "pooling": args.pooling,
        "seed": config.seed,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "steps": config.steps,
        "batch_size": config.batch_size,
        "length": config.data.length,
        "test": task.evaluate(params, "test", limit=args.test_examples),
        "test_examples": args.test_examples,
        "valid": [(row["step"], row["valid/accuracy"]) for row in rows if "valid/accuracy" in row],
        "train": [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row],
        "tokens_per_second": speeds[len(speeds) // 2],
        "seconds": round(seconds, 1),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }


if __name__ == "__main__":
    sys.exit(cli.run(main))
