"""Cross-validates a small Longformer on hyperpartisan news, from scratch and from a masked language model.

  python experiments/hyperpartisan/run.py --articles=FOLDER --text=enwik8.zip

What is done is not done again, what was cut off goes on. Runs live in --workdir (not committed): the masked language
model of `--text`, then for every fold one run of each kind. Of each finished one, `metrics/KIND-FOLD.json` keeps the
curve, the scores of the fold's test articles and what was said of each: what report.py reads.
"""

import functools
import pathlib
import sys
import time

import jax
import numpy as np

from effjax import cli
from effjax.data.examples import scoring_examples
from effjax.errors import UserError
from effjax.tasks import make_task
from effjax.training.config import load_config
from effjax.training.loop import train_to_the_end
from effjax.training.metrics import read_rows
from effjax.training.restore import restore_on_all_devices
from effjax.training.workdir import keep_result, open_workdir

HERE = pathlib.Path(__file__).parent
CONFIG = HERE.parents[1] / "configs" / "longformer_hyperpartisan.py"
KINDS = ("scratch", "pretrained")


def main(argv=None) -> None:
    parser = cli.plain_parser("hyperpartisan", __doc__)
    parser.add_argument("--articles", required=True, help="the folder or archive of the labelled articles")
    parser.add_argument("--text", required=True, help="the real enwik8: raw, .zip, .gz or .xz")
    parser.add_argument("--folds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument(
        "--masked_steps", type=int, default=0, help="of the masked model (default: the configuration's)"
    )
    parser.add_argument("--steps", type=int, default=0, help="of a classifier (default: the configuration's)")
    parser.add_argument("--size", default="small", help="of the configuration's presets (default: %(default)s)")
    parser.add_argument("--workdir", default="runs/hyperpartisan", help="(default: %(default)s)")
    parser.add_argument("--metrics", default=str(HERE / "metrics"), help="(default: beside this file)")
    args = parser.parse_args(argv)
    if args.folds < 2:
        raise UserError(f"--folds={args.folds}; 2 or more are needed")
    metrics = pathlib.Path(args.metrics)
    masked = f"{args.workdir}/masked"
    keep_result(metrics / "masked.json", functools.partial(pretrain, args, masked))
    for fold in range(args.folds):
        for kind in KINDS:
            make = functools.partial(classify, args, kind, fold, masked)
            keep_result(metrics / f"{kind}-{fold}.json", make)


def pretrain(args, masked) -> dict:
    """The masked language model."""
    config = load_config(f"{CONFIG}:{args.size}_pretrain".replace(":_", ":")).unlock()
    config.data.path, config.steps = args.text, args.masked_steps or config.steps
    task, start = make_task(config.lock()), time.monotonic()
    train_to_the_end(task, config, masked)
    scores = scores_of(masked, "valid/masked_bits_per_symbol")
    return {"steps": config.steps, "batch_size": config.batch_size, "length": config.data.length} | {
        "valid": scores,
        "seconds": round(time.monotonic() - start, 1),
        "device": jax.devices()[0].device_kind,
    }


def classify(args, kind, fold, masked) -> dict:
    """One fold, one beginning."""
    config = load_config(f"{CONFIG}:{args.size}").unlock()
    config.data.path, config.steps = args.articles, args.steps or config.steps
    config.options.update(folds=args.folds, fold=fold, init_from=masked if kind == "pretrained" else "")
    config.seed = fold
    workdir = f"{args.workdir}/{kind}-{fold}"
    task, start = make_task(config.lock()), time.monotonic()
    test = train_to_the_end(task, config, workdir)
    _, params, _ = restore_on_all_devices(task, workdir)
    said, true = [], []
    for batch in scoring_examples(task.examples("test"), batch_size=config.eval.batch_size):
        real = batch["example_weights"] > 0
        said += np.asarray(task.scores(params, batch)).argmax(axis=-1)[real].tolist()
        true += batch["labels"][real].tolist()
    return {
        "kind": kind,
        "fold": fold,
        "folds": args.folds,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "steps": config.steps,
        "batch_size": config.batch_size,
        "length": config.data.length,
        "test": test,
        "said": said,
        "true": true,
        "valid": scores_of(workdir, "valid/accuracy"),
        "seconds": round(time.monotonic() - start, 1),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }


def scores_of(workdir, name) -> list:
    """The curve of one score."""
    rows = read_rows(open_workdir(workdir) / "metrics.jsonl")
    return [(row["step"], row[name]) for row in rows if name in row]


if __name__ == "__main__":
    sys.exit(cli.run(main))
