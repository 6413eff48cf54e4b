"""Sentences that each model of run.py decodes in a second, all models in turn; writes speed.json.

  taskset -c 0 python experiments/translation/speed.py --data=multi30k_task1.tar.xz --pairs=de-en

Batches of the 2016 test set, a beam of 4, the averaged checkpoints; what is compiled does not count.
"""

import json
import pathlib
import statistics
import sys
import time

import jax
from run import MODELS

from effjax import cli
from effjax.tasks import make_task
from effjax.training.restore import restore_on_all_devices
from effjax.training.workdir import load_saved_config, open_workdir, replace_text

HERE = pathlib.Path(__file__).parent


def main(argv=None) -> None:
    parser = cli.plain_parser("translation/speed", __doc__)
    parser.add_argument("--data", required=True, help="Multi30k's task 1: an archive or a folder")
    parser.add_argument("--pairs", default="de-en,en-fr", help="languages, with commas (default: %(default)s)")
    parser.add_argument("--average", type=int, default=3, help="checkpoints to average (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="timed batches of each (default: %(default)s)")
    parser.add_argument("--workdir", default="runs/translation", help="of run.py (default: %(default)s)")
    args = parser.parse_args(argv)
    calls, times = {}, {}
    for pair in args.pairs.split(","):
        for model in MODELS:
            calls[f"{pair}-{model}"] = search_of(f"{args.workdir}/{pair}-{model}", args)
    for repeat in range(args.repeats + 1):
        for name, (search, batches) in calls.items():
            batch = batches[repeat % len(batches)]
            start = time.perf_counter()
            jax.block_until_ready(search(batch))
            if repeat:
                times.setdefault(name, []).append((time.perf_counter() - start) / len(batch["inputs"]))
    result = {name: round(1 / statistics.median(own), 1) for name, own in times.items()}
    result |= {"unit": "sentences per second", "device": jax.devices()[0].device_kind, "jax": jax.__version__}
    print(json.dumps(result, indent=1))
    replace_text(HERE / "speed.json", json.dumps(result, indent=1) + "\n")


def search_of(workdir: str, args):
    """The compiled beam search of a trained model, and full batches to run it on."""
    config = load_saved_config(open_workdir(workdir)).unlock()
    config.data.path = args.data
    task = make_task(config.lock())
    _, params, _ = restore_on_all_devices(task, workdir, f"average:{args.average}")
    batches = [jax.tree.map(jax.numpy.asarray, batch) for batch in task.scoring_batches("test", limit=256)]
    return lambda batch: task.search(params, batch["inputs"], batch["source_segments"] > 0), batches


if __name__ == "__main__":
    sys.exit(cli.run(main))
