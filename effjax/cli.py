"""The command line: `effjax <command>`, `python -m effjax.<command>`, and what their flags have in common.

A command is a module with `main(argv) -> int | None`; its last line is `sys.exit(cli.run(main))`.
"""

import argparse
import difflib
import importlib
import sys
from collections.abc import Callable, Sequence

from effjax.errors import UserError
from effjax.training.config import apply_overrides, describe_fields, load_config

COMMANDS = {
    "train": "train a model, or continue training it",
    "evaluate": "score a checkpoint",
    "generate": "generate text from a checkpoint",
    "predict": "apply a checkpoint to a document, a series, a sound file or a sentence",
    "convert": "a published checkpoint of another library to a working directory, and back",
    "compare": "time, memory, FLOPs and error of the families, side by side at equal shapes",
    "visualize": "draw who attends to whom, and what a model has learned about that",
    "quantize": "make a trained model smaller: integers in place of its weights",
    "prune": "mask the least heads, neurons or weights of a trained model, or remove what is masked",
    "plan": "count parameters, FLOPs and memory of a configuration; no device is touched",
}


class ArgumentParser(argparse.ArgumentParser):
    """argparse, whose complaints are UserErrors."""

    def error(self, message):
        raise UserError(f"{message} (see {self.prog} --help)")


def argument_parser(command: str, description: str) -> ArgumentParser:
    """The parser of a command, with `--config`; the command adds its own flags.

    Args:
      command: one of COMMANDS.
      description: what it does, for `--help`; usually the module's docstring.
    """
    parser = ArgumentParser(
        prog=f"effjax {command}",
        description=description,
        epilog="Fields of a configuration, each set with --config.FIELD=VALUE (those of the model, "
        f"--config.model.FIELD, are listed in effjax/models/build.py):\n{describe_fields()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE.py[:PRESET]", help="the experiment, such as configs/reformer_enwik8.py:tiny"
    )
    return parser


def plain_parser(command: str, description: str) -> ArgumentParser:
    """The parser of a command that takes no configuration."""
    return ArgumentParser(
        prog=f"effjax {command}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_workdir_flag(parser: ArgumentParser, *, required: bool = True) -> None:
    """The flag that names a run."""
    text = "directory of the run, local or gs://bucket/path; without --config, its configuration holds"
    parser.add_argument("--workdir", required=required, help=text)


def add_checkpoint_flags(parser: ArgumentParser, *, required: bool = True) -> None:
    """Flags that name a trained model."""
    add_workdir_flag(parser, required=required)
    parser.add_argument(
        "--checkpoint",
        default="latest",
        help="latest, best, a step, or average:N, the mean of the last N (default: latest)",
    )


def add_distributed_flags(parser: ArgumentParser) -> None:
    """Flags that connect several processes, see `training.distributed.initialize`."""
    group = parser.add_argument_group("several processes (on Cloud TPU nothing needs to be said)")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    group.add_argument("--num_processes", type=int, metavar="N", help="how many processes there are")
    group.add_argument("--process_id", type=int, metavar="I", help="which one this is, from 0")


def chosen(flag: str, text: str, known: Sequence[str]) -> list[str]:
    """The names in a flag's text, with commas between them; "all" is all of them.

    Raises:
      UserError: a name that is not known.
    """
    names = list(known) if text == "all" else text.split(",")
    for name in names:
        if name not in known:
            raise UserError(f"{flag}={text}: there is no {name!r}; one of {', '.join(known)} is allowed")
    return names


def parse(parser: ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the flags of a command and the configuration.

    Args:
      parser: from `argument_parser`.
      argv: arguments without the program's name; None: those of the process.

    Returns:
      The flags; `config` is the configuration, locked: the file's, or else the one saved in `--workdir`, with the
      overrides `--config.FIELD=VALUE` (or `--config.FIELD VALUE`) applied in their order.

    Raises:
      UserError: an unknown flag or field, or a value of the wrong type.
    """
    args, rest = parser.parse_known_args(argv)
    flags = [flag for action in parser._actions for flag in action.option_strings]
    overrides, rest = [], iter(rest)
    for argument in rest:
        key, equals, value = argument.partition("=")
        if not key.startswith("--config."):
            near = difflib.get_close_matches(key, flags, n=1)
            parser.error(f"unknown argument {argument!r}" + (f"; the nearest is {near[0]}" if near else ""))
        if not equals:
            value = next(rest, None)
            if value is None:
                parser.error(f"{key} needs a value")
        overrides.append((key.removeprefix("--config."), value))
    args.config = apply_overrides(_base_config(parser, args), overrides)
    return args


def _base_config(parser: ArgumentParser, args: argparse.Namespace):
    if args.config:
        return load_config(args.config)
    if getattr(args, "workdir", None):
        from effjax.training.workdir import load_saved_config, open_workdir

        return load_saved_config(open_workdir(args.workdir))
    return parser.error("--config is required")


def run(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: a UserError is one line on standard error and 1."""
    try:
        return main(argv) or 0
    except UserError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 1


def main(argv: Sequence[str] | None = None) -> int:
    """The console script `effjax`."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("Efficient transformers in JAX.\n\nusage: effjax COMMAND [--help] …\n")
        print("\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()))
        return 0
    command, *rest = argv
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1, cutoff=0.0)[0]
        print(f"error: unknown command {command!r}; the nearest is {near} (see effjax --help)", file=sys.stderr)
        return 1
    return run(importlib.import_module(f"effjax.{command}").main, rest)
