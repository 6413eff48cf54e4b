"""Trains Transformer and Lite Transformer on Multi30k and translates its test sets; what is done is not done again.

  python experiments/translation/run.py --data=multi30k_task1.tar.xz
  python experiments/translation/run.py --data=multi30k_task1.tar.xz --pairs=en-fr --models=lite --steps=5000

Runs live in --workdir (not committed); one that was cut off goes on. Of each finished one, `metrics/PAIR-MODEL.json`
keeps curves, BLEU with its signature, and decoding speed: what report.py reads.
"""

import functools
import pathlib
import sys

import jax

from effjax import cli
from effjax.tasks import make_task
from effjax.training.config import load_config
from effjax.training.loop import train_to_the_end
from effjax.training.metrics import read_rows
from effjax.training.restore import restore_on_all_devices
from effjax.training.workdir import keep_result, open_workdir

HERE = pathlib.Path(__file__).parent
CONFIG = HERE.parents[1] / "configs" / "lite_transformer_multi30k.py"
MODELS = {"lite": "", "transformer": "transformer"}
TESTS = ("test", "test_2017", "test_2018")


def main(argv=None) -> None:
    parser = cli.plain_parser("translation", __doc__)
    parser.add_argument("--data", required=True, help="Multi30k's task 1: an archive or a folder")
    parser.add_argument("--pairs", default="de-en,en-fr", help="languages, with commas (default: %(default)s)")
    parser.add_argument("--models", default="lite,transformer", help="with commas (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=0, help="training steps (default: those of the configuration)")
    parser.add_argument("--average", type=int, default=3, help="checkpoints to average (default: %(default)s)")
    parser.add_argument("--workdir", default="runs/translation", help="(default: %(default)s)")
    parser.add_argument("--metrics", default=str(HERE / "metrics"), help="(default: beside this file)")
    args = parser.parse_args(argv)
    models = cli.chosen("--models", args.models, tuple(MODELS))
    metrics = pathlib.Path(args.metrics)
    for pair in args.pairs.split(","):
        for model in models:
            keep_result(metrics / f"{pair}-{model}.json", functools.partial(run, pair, model, args))


def run(pair: str, model: str, args) -> dict:
    """Trains a model, averages its last checkpoints and translates the test sets."""
    config = load_config(f"{CONFIG}:{MODELS[model]}").unlock()
    config.data.path, config.steps = args.data, args.steps or config.steps
    config.options.source, config.options.target = pair.split("-")
    config.eval.test, config.log_every = False, 50
    workdir = f"{args.workdir}/{pair}-{model}"
    task = make_task(config.lock())
    train_to_the_end(task, config, workdir)
    _, params, _ = restore_on_all_devices(task, workdir, f"average:{args.average}")
    rows = read_rows(open_workdir(workdir) / "metrics.jsonl")
    seen = args.steps or config.steps
    return {
        "pair": pair,
        "model": model,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "mult_adds": task.mult_adds(params),
        "steps": seen,
        "row_tokens": seen * config.batch_size * config.data.length,
        "averaged": args.average,
        "scores": {split: task.evaluate(params, split) for split in TESTS},
        "signature": task.notes()["bleu_signature"],
        "valid": [(row["step"], row["valid/loss"]) for row in rows if "valid/loss" in row],
        "train": [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row],
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }


if __name__ == "__main__":
    sys.exit(cli.run(main))
