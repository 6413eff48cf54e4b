"""Trains the models one after another; what is done is not done again, what was cut off goes on.

  python experiments/forecasting/run.py --data=DATA
  python experiments/forecasting/run.py --data=DATA --runs=etth1-full,etth1-log_sparse_6 --seeds=0,1 --steps=3000

DATA holds ett/ETTh1.csv, exchange_rate.txt.gz and m4_hourly/Hourly-{train,test}.csv, each as it is or compressed. Runs
live in --workdir (not committed). Of each finished one `metrics/DATA-MODEL-SEED.json` keeps the scores and the curve:
what report.py reads.
"""

import functools
import pathlib
import sys
import time

import jax

from effjax import cli
from effjax.data.m4_hourly import find
from effjax.tasks import make_task
from effjax.training.config import load_config
from effjax.training.loop import train_to_the_end
from effjax.training.metrics import read_rows
from effjax.training.restore import restore_on_all_devices
from effjax.training.workdir import keep_result, open_workdir

HERE = pathlib.Path(__file__).parent
CONFIG = HERE / "config.py"
DATA = ("etth1", "exchange_rate", "m4_hourly")
MODELS = ("full", "log_sparse_1", "log_sparse_6", "log_sparse_3", "log_sparse_9")


def main(argv=None) -> None:
    parser = cli.plain_parser("forecasting", __doc__)
    parser.add_argument("--data", required=True, help="the folder of the three data sets")
    parser.add_argument("--runs", default="all", help="all, or DATA-MODEL with commas")
    parser.add_argument("--seeds", default="0", help="with commas (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="training steps of a run (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=50, help="trajectories of a forecast (default: %(default)s)")
    parser.add_argument("--workdir", default="runs/forecasting", help="(default: %(default)s)")
    parser.add_argument("--metrics", default=str(HERE / "metrics"), help="(default: beside this file)")
    args = parser.parse_args(argv)
    every = [f"{data}-{model}" for data in DATA for model in MODELS]
    names = cli.chosen("--runs", args.runs, every)
    metrics = pathlib.Path(args.metrics)
    for seed in map(int, args.seeds.split(",")):
        for name in names:
            keep_result(metrics / f"{name}-{seed}.json", functools.partial(run, name, seed, args))


def data_path(folder: str, data: str) -> str:
    """The file of a data set, or the folder of its two."""
    if data == "etth1":
        return find(f"{folder}/ett", "ETTh1.csv")
    return find(folder, "exchange_rate.txt") if data == "exchange_rate" else f"{folder}/m4_hourly"


def run(name: str, seed: int, args) -> dict:
    """Trains and scores one model."""
    data, model = name.split("-")
    config = load_config(f"{CONFIG}:{name}").unlock()
    config.seed, config.steps, config.options.samples = seed, args.steps, args.samples
    config.data.path = data_path(args.data, data)
    task = make_task(config.lock())
    workdir, start = f"{args.workdir}/{name}-{seed}", time.process_time()
    train_to_the_end(task, config, workdir)
    trained = time.process_time()
    _, params, _ = restore_on_all_devices(task, workdir)
    test = task.evaluate(params, "test")
    rows = read_rows(open_workdir(workdir) / "metrics.jsonl")
    return {
        "data": data,
        "model": model,
        "seed": seed,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "steps": args.steps,
        "batch_size": config.batch_size,
        "samples": args.samples,
        "windows": len(task.examples("test")),
        "test": test,
        "train": [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row],
        "cpu_seconds": {"training": round(trained - start), "scoring": round(time.process_time() - trained)},
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }


if __name__ == "__main__":
    sys.exit(cli.run(main))
