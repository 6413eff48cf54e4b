"""Pictures of who attends to whom in a model, as PNG.

  python -m effjax.visualize --config=configs/longformer_enwik8.py:tiny --length=128
  python -m effjax.visualize --workdir=runs/reformer --checkpoint=best --output=pictures

Mixers that follow rules about positions get one panel for all heads and layers in which the same positions see each
other. LSH attention shows the buckets of a real text and who meets whom there, adaptive span how far back each head
looks, FAVOR+ its error against exact softmax over the number of features. Without --workdir what depends on parameters
is drawn with those that training would start from. Where training goes in stages, the settings are those of the
checkpoint's stage, or of the last one.
"""

import sys

from effjax import cli
from effjax.errors import UserError

LENGTHS = (2, 2048)  # a picture has a cell for every pair of positions


def main(argv=None) -> None:
    """The command; see the module's docstring."""
    parser = cli.argument_parser("visualize", __doc__)
    cli.add_checkpoint_flags(parser, required=False)
    parser.add_argument("--output", default="pictures", help="directory of the pictures (default: %(default)s)")
    parser.add_argument("--length", type=int, default=256, help="positions to look at (default: %(default)s)")
    args = cli.parse(parser, argv)
    if not LENGTHS[0] <= args.length <= LENGTHS[1]:
        raise UserError(f"--length={args.length}; {LENGTHS[0]} to {LENGTHS[1]:,} positions is allowed")
    if args.checkpoint != "latest" and not args.workdir:
        raise UserError(f"--checkpoint={args.checkpoint} without --workdir: give the run that it belongs to")

    from effjax.pictures.figure import save
    from effjax.pictures.gallery import gallery
    from effjax.training.workdir import open_workdir

    directory = open_workdir(args.output)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={args.output} cannot be made a directory: {error.strerror or error}") from error
    for picture in gallery(subject_of(args)):
        if picture.figure is not None:
            path = directory / f"{picture.name}.png"
            save(picture.figure, path)
            print(path)
        if picture.remark:
            print(picture.remark)


def subject_of(args):
    """The model of the flags: trained where there is a run."""
    import jax

    from effjax.pictures.subject import Subject
    from effjax.tasks import make_task
    from effjax.training.restore import restore_on_all_devices
    from effjax.training.stages import stage_of_step, stages_of

    if not args.workdir:
        return Subject(make_task(stages_of(args.config)[-1].config), args.length)
    step, params, _ = restore_on_all_devices(make_task(args.config), args.workdir, args.checkpoint)
    task = make_task(stage_of_step(args.config, step).config)
    return Subject(task, args.length, jax.device_get(params), f"parameters after {step:,} steps")


if __name__ == "__main__":
    sys.exit(cli.run(main))
