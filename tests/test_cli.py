"""Commands as a person meets them: help, one clear line for a mistake, exit codes."""

import subprocess
import sys

import pytest

from effjax import cli
from effjax.errors import UserError
from effjax.training.workdir import open_workdir, save_config
from tests.training.fake_task import fake_config
from tests.training.test_config import EXPERIMENT


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "experiment.py"
    path.write_text(EXPERIMENT)
    return str(path)


def parse(*argv):
    parser = cli.argument_parser("train", "Trains.")
    parser.add_argument("--workdir")
    cli.add_distributed_flags(parser)
    return cli.parse(parser, argv)


def test_flags_and_overrides_in_both_spellings(experiment):
    args = parse(
        f"--config={experiment}:tiny", "--workdir=w", "--config.seed=3", "--config.steps", "9", "--process_id=1"
    )
    assert (args.workdir, args.process_id, args.config.seed, args.config.steps) == ("w", 1, 3, 9)
    assert args.config.is_locked


def test_a_workdir_brings_its_own_configuration(tmp_path):
    save_config(open_workdir(str(tmp_path)), fake_config(seed=7))
    args = parse(f"--workdir={tmp_path}", "--config.steps=99")
    assert (args.config.seed, args.config.steps) == (7, 99)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--config is required"),
        (["--config={}", "--config.optimizer.warmpu=3"], r"nearest is --config\.optimizer\.warmup"),
        (["--config={}", "--config.steps=soon"], "expected int"),
        (["--config={}", "--config.steps"], r"--config\.steps needs a value"),
        (["--config={}", "--wrokdir=x"], r"unknown argument '--wrokdir=x'; the nearest is --workdir"),
        (["--config={}", "--process_id=first"], "invalid int value"),
        (["--workdir=/nowhere/at/all"], "holds no run"),
    ],
)
def test_mistakes_are_user_errors(experiment, argv, message):
    with pytest.raises(UserError, match=message):
        parse(*(argument.format(experiment) for argument in argv))


def test_a_user_error_is_one_line_and_exit_code_one(capsys):
    def command(argv):
        raise UserError("first\n  second")

    assert cli.run(command) == 1
    assert capsys.readouterr().err == "error: first second\n"
    assert cli.run(lambda argv: None) == 0


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda argv: 1 / 0)


def test_the_script_lists_its_commands_and_knows_their_names(capsys):
    assert cli.main(["--help"]) == cli.main([]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out and text in out for name, text in cli.COMMANDS.items())
    assert cli.main(["trian"]) == 1
    assert "unknown command 'trian'; the nearest is train" in capsys.readouterr().err
    assert cli.main(["train"]) == 1
    assert capsys.readouterr().err.startswith("error: the following arguments are required: --workdir")


def test_help_names_the_workdir_only_where_there_is_one():
    plan, train = cli.argument_parser("plan", "Plans."), cli.argument_parser("train", "Trains.")
    cli.add_workdir_flag(train)
    assert "workdir" not in plan.format_help()
    assert "without --config, its" in train.format_help()
    assert "effjax/models/build.py" in plan.format_help()


def test_help_explains_every_field_without_loading_jax():
    program = (
        "import sys\nfrom effjax import train\n"
        "try:\n  train.main(['--help'])\nfinally:\n  assert 'jax' not in sys.modules"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    for text in (
        "effjax train",
        "--config FILE.py[:PRESET]",
        "--workdir",
        "--coordinator",
        "--config.optimizer.warmup=",
    ):
        assert text in out


def test_names_of_a_flag_are_all_or_some_that_are_known():
    assert cli.chosen("--models", "all", ("full", "lsh")) == ["full", "lsh"]
    assert cli.chosen("--models", "lsh,full", ("full", "lsh")) == ["lsh", "full"]
    with pytest.raises(UserError, match="--models=lsh,ful: there is no 'ful'; one of full, lsh is allowed"):
        cli.chosen("--models", "lsh,ful", ("full", "lsh"))
