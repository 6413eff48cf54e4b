"""Applies a trained model to one input: a document, a series, a sound file, a sentence.

python -m effjax.predict --workdir=runs/text_classifier review.txt
python -m effjax.predict --workdir=runs/translation "Ein Hund läuft ." --json
"""

import json
import sys

from effjax import cli


def main(argv=None) -> None:
    """The command; see the module's docstring."""
    parser = cli.argument_parser("predict", __doc__)
    cli.add_checkpoint_flags(parser)
    parser.add_argument("input", help="a file, or the text itself where the task reads text; see the task")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is drawn (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = cli.parse(parser, argv)

    import jax

    from effjax.tasks import make_task
    from effjax.training.progress import printable
    from effjax.training.restore import restore_on_all_devices
    from effjax.training.stages import stage_of_step
    from effjax.training.workdir import open_workdir

    step, params, mesh = restore_on_all_devices(make_task(args.config), args.workdir, args.checkpoint)
    task = make_task(stage_of_step(args.config, step).config)
    task.workdir = open_workdir(args.workdir)
    with jax.set_mesh(mesh):
        result = task.predict(params, args.input, key=jax.random.key(args.seed))
    if args.json:
        print(json.dumps(result))
    else:
        print(printable(result["text"]))


if __name__ == "__main__":
    sys.exit(cli.run(main))
