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

    from effjax.interop.workdirs import check_absent

    check_absent(args.to)
    print(f"{args.to}: {_to_foreign(args) or _from_foreign(args)}")


def _to_foreign(args) -> str:
    """Writes a model of ours in its foreign layout and says what it is; "" where the source is none of ours."""
    from effjax.interop.bare_models import export_bare_model, is_bare_model
    from effjax.interop.convert import export_state_dict
    from effjax.interop.files import write_checkpoint
    from effjax.interop.workdirs import load_model, write_folder
    from effjax.training.workdir import load_saved_config, open_workdir

    if is_bare_model(args.source):
        settings, tensors = export_bare_model(args.source, args.checkpoint)
    elif (pathlib.Path(args.source).expanduser() / "checkpoints").is_dir():
        _, params = load_model(args.source, args.checkpoint)
        settings, tensors = export_state_dict(load_saved_config(open_workdir(args.source)), params)
    else:
        return ""
    write_folder(args.to, lambda folder: write_checkpoint(folder, settings, tensors))
    return f"{settings['architectures'][0]}, {sum(x.size for x in tensors.values()):,} numbers"


def _from_foreign(args) -> str:
    """Makes a foreign checkpoint one of ours and says what it is."""
    from effjax.errors import UserError
    from effjax.interop.bare_models import KINDS, save_bare_model
    from effjax.interop.convert import import_state_dict
    from effjax.interop.files import read_checkpoint
    from effjax.interop.workdirs import save_workdir, write_folder

    settings, tensors = read_checkpoint(args.source)
    kind = settings.get("model_type")
    if kind in KINDS:
        if args.vocabulary:
            raise UserError(f"--vocabulary={args.vocabulary}: no task here reads a {kind}; none is allowed")
        write_folder(args.to, lambda folder: save_bare_model(folder, settings, tensors, args.source))
        return f"{kind}, for effjax.load_model"
    config, params = import_state_dict(settings, tensors, vocabulary=args.vocabulary, source=args.source)
    write_folder(args.to, lambda folder: save_workdir(folder, config, params))
    return f"{kind}, {config.task}, vocabulary {config.data.vocabulary}"


if __name__ == "__main__":
    sys.exit(cli.run(main))
