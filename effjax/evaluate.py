"""Scores a checkpoint: every target of a split exactly once, in bits per byte.

  python -m effjax.evaluate --workdir=runs/reformer
  python -m effjax.evaluate --workdir=runs/reformer --split=valid --checkpoint=best --context=256 --stride=64

Each target has at least context - stride tokens before it: a smaller stride scores better and costs more.
"""

import json
import sys

from effjax import cli


def main(argv=None) -> None:
    """The command; see the module's docstring."""
    parser = cli.argument_parser("evaluate", __doc__)
    cli.add_checkpoint_flags(parser)
    parser.add_argument("--split", default="test", help="train, valid or test (default: test)")
    parser.add_argument("--context", type=int, default=0, help="tokens seen at once (default: config.eval.context)")
    parser.add_argument(
        "--stride", type=int, default=0, help="targets scored in each window (default: config.eval.stride)"
    )
    parser.add_argument(
        "--batch_size", type=int, default=0, help="windows scored at once (default: config.eval.batch_size)"
    )
    parser.add_argument("--limit", type=int, default=0, help="score the first so many targets only (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = cli.parse(parser, argv)

    import jax

    from effjax.tasks import make_task
    from effjax.training.restore import restore_on_all_devices
    from effjax.training.stages import stage_of_step
    from effjax.training.workdir import open_workdir

    step, params, mesh = restore_on_all_devices(make_task(args.config), args.workdir, args.checkpoint)
    task = make_task(stage_of_step(args.config, step).config)
    task.workdir = open_workdir(args.workdir)
    settings = {name: getattr(args, name) for name in ("limit", "context", "stride", "batch_size")}
    with jax.set_mesh(mesh):
        scores = {"step": step, "split": args.split} | task.evaluate(params, args.split, mesh=mesh, **settings)
    scores |= task.notes()
    if args.json:
        print(json.dumps(scores))
    else:
        for name, value in scores.items():
            print(f"{name:<24}{value:,.4f}" if isinstance(value, float) else f"{name:<24}{value}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
