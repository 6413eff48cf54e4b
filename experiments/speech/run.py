"""Trains the speech models one after another; what is done is not done again, what was cut off goes on.

  python experiments/speech/run.py --an4=an4_mfcc.tar.xz --digits=recordings --librispeech=slice

Runs live in --workdir (not committed). Of each finished one, `metrics/NAME.json` keeps the curves and the scores of the
test split, greedy and with a beam: what report.py reads.
"""

import functools
import pathlib
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
CONFIGS = HERE.parent.parent / "configs"
RUNS = {"an4": "conformer_an4.py", "digits": "conformer_digits.py", "librispeech": "conformer_librispeech.py:smoke"}
BEAM = 8


def main(argv=None) -> None:
    parser = cli.plain_parser("speech", __doc__)
    for name in RUNS:
        parser.add_argument(f"--{name}", default="", help="folder or archive; without it the run is left out")
    parser.add_argument("--steps", type=int, default=0, help="training steps of a run (default: the configuration's)")
    parser.add_argument("--workdir", default="runs/speech", help="(default: %(default)s)")
    parser.add_argument("--metrics", default=str(HERE / "metrics"), help="(default: beside this file)")
    args = parser.parse_args(argv)
    metrics = pathlib.Path(args.metrics)
    for name in RUNS:
        if getattr(args, name):
            keep_result(metrics / f"{name}.json", functools.partial(run, name, args))


def run(name: str, args) -> dict:
    """Trains and scores one model."""
    config = load_config(f"{CONFIGS}/{RUNS[name]}").unlock()
    config.data.path, config.eval.test = getattr(args, name), False
    config.steps = args.steps or config.steps
    workdir = f"{args.workdir}/{name}"
    start = time.process_time()
    train_to_the_end(make_task(config.lock()), config, workdir)
    seconds = time.process_time() - start
    scores = {}
    for decoding, beam in (("greedy", 0), ("beam", BEAM)):
        config.options.beam = beam
        task = make_task(config)
        step, params, _ = restore_on_all_devices(task, workdir, "best")
        scores[decoding] = task.evaluate(params, "test") | {"checkpoint": step}
    rows = read_rows(open_workdir(workdir) / "metrics.jsonl")
    curve = lambda key: [(row["step"], row[key]) for row in rows if key in row]
    return {
        "name": name,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params["params"])),
        "steps": config.steps,
        "batch_size": config.batch_size,
        "test": scores,
        "beam": BEAM,
        "valid": curve("valid/word_error_rate"),
        "train": curve("train/loss"),
        "cpu_seconds_of_the_last_start": round(seconds, 1),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }


if __name__ == "__main__":
    sys.exit(cli.run(main))
