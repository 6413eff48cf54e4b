"""Turns a checkpoint in Hugging Face's layout into a working directory, and a working directory's model back into one.

python -m effjax.convert --from=reformer-enwik8 --to=runs/reformer-enwik8
python -m effjax.convert --from=runs/longformer --to=longformer_for_transformers

What is read: a folder with config.json and model.safetensors (never a pickle) of a Longformer, BigBird, Reformer,
Transformer-XL, LED or Wav2Vec2-Conformer (its encoder). What is written: all of these but Reformer and Transformer-XL,
which nobody else reads any more. LED and the Conformer's encoder have no task here: their folder holds a model for
effjax.load_model and for the way back alone. --to must not exist; it appears whole or not at all.
"""

import pathlib
import sys

from effjax import cli


def main(argv=None) -> None:
    """The command; see the module's docstring."""
    parser = cli.plain_parser("convert", __doc__)
    parser.add_argument(
        "--from", dest="source", required=True, metavar="PATH", help="folder, safetensors file or working directory"
    )
    parser.add_argument("--to", required=True, metavar="DIR", help="folder to write, which must not exist")
    parser.add_argument(
        "--vocabulary", default="", help="what the ids stand for (default: the published model's, else ids:N)"
    )
    parser.add_argument("--checkpoint", default="latest", help="of a working directory: latest, best or a step")
    args = parser.parse_args(argv)

    from effjax.errors import UserError
    from effjax.interop.bare_models import KINDS, export_bare_model, is_bare_model, save_bare_model
    from effjax.interop.convert import export_state_dict, import_state_dict
    from effjax.interop.files import read_checkpoint, write_checkpoint
    from effjax.interop.workdirs import check_absent, load_model, save_workdir, write_folder
    from effjax.training.workdir import load_saved_config, open_workdir

    check_absent(args.to)
    if is_bare_model(args.source):
        export = export_bare_model(args.source, args.checkpoint)
    elif (pathlib.Path(args.source).expanduser() / "checkpoints").is_dir():
        _, params = load_model(args.source, args.checkpoint)
        export = export_state_dict(load_saved_config(open_workdir(args.source)), params)
    else:
        export = None
    if export is not None:
        settings, tensors = export
        write_folder(args.to, lambda folder: write_checkpoint(folder, settings, tensors))
        print(f"{args.to}: {settings['architectures'][0]}, {sum(x.size for x in tensors.values()):,} numbers")
        return
    settings, tensors = read_checkpoint(args.source)
    if settings.get("model_type") in KINDS:
        if args.vocabulary:
            raise UserError(f"--vocabulary={args.vocabulary}: no task here reads a {settings['model_type']}")
        write_folder(args.to, lambda folder: save_bare_model(folder, settings, tensors, args.source))
        print(f"{args.to}: {settings['model_type']}, for effjax.load_model")
        return
    config, params = import_state_dict(settings, tensors, vocabulary=args.vocabulary, source=args.source)
    write_folder(args.to, lambda folder: save_workdir(folder, config, params))
    print(f"{args.to}: {settings['model_type']}, {config.task}, vocabulary {config.data.vocabulary}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
