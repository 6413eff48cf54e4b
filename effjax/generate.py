"""Continues a text with a trained model, token by token, without computing any of it twice.

python -m effjax.generate --workdir=runs/reformer --prompt="The history of "
python -m effjax.generate --workdir=runs/reformer --prompt="== See also ==" --length=200 --temperature=0.7 --top_k=40
"""

import sys

from effjax import cli


def main(argv=None) -> None:
    """The command; see the module's docstring."""
    parser = cli.argument_parser("generate", __doc__)
    cli.add_checkpoint_flags(parser)
    parser.add_argument("--prompt", help="start of the text (default: config.sample.prompt)")
    parser.add_argument("--length", type=int, help="tokens to add (default: config.sample.length)")
    parser.add_argument("--temperature", type=float, help="0: the likeliest token always (default: config.sample's)")
    parser.add_argument("--top_k", type=int, help="draw among the k likeliest; 0: all (default: config.sample.top_k)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (default: 0)")
    args = cli.parse(parser, argv)

    import jax

    from effjax.tasks import make_task
    from effjax.training.progress import printable
    from effjax.training.restore import restore_on_all_devices
    from effjax.training.stages import stage_of_step

    step, params, mesh = restore_on_all_devices(make_task(args.config), args.workdir, args.checkpoint)
    task = make_task(stage_of_step(args.config, step).config)
    names = ("prompt", "length", "temperature", "top_k")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    settings = dict(args.config.sample) | given
    with jax.set_mesh(mesh):
        text = task.continue_text(params, jax.random.key(args.seed), **settings)
    print(printable(settings["prompt"] + text))


if __name__ == "__main__":
    sys.exit(cli.run(main))
