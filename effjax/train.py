"""Trains a model, or continues to: everything about the run is kept in its working directory.

  python -m effjax.train --config=configs/reformer_enwik8.py:tiny --workdir=runs/reformer
  python -m effjax.train --config=configs/reformer_enwik8.py:tiny --workdir=runs/short --config.steps=100

The same command again, or --workdir alone, goes on from the newest checkpoint. In the working directory: config.json,
metrics.jsonl (one object a line), curves.png, tensorboard/ and checkpoints/.
"""

import sys

from effjax import cli
from effjax.allocator import keep_freed_memory


def main(argv=None) -> None:
    """The command; see the module's docstring."""
    parser = cli.argument_parser("train", __doc__)
    cli.add_workdir_flag(parser)
    cli.add_distributed_flags(parser)
    args = cli.parse(parser, argv)
    keep_freed_memory()

    from effjax.training import distributed

    distributed.initialize(args.coordinator, args.num_processes, args.process_id)

    from effjax.tasks import make_task
    from effjax.training.loop import train

    train(make_task(args.config), args.config, args.workdir)


if __name__ == "__main__":
    sys.exit(cli.run(main))
