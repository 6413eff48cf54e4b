"""The Reformer experiment as people run it: commands in processes of their own, on the bytes in the package."""

import importlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from effjax import cli
from tests.training.test_loop import rows_of
from tests.training.test_processes import finish, wait_for_rows

ROOT = pathlib.Path(__file__).parents[1]
SMALL = {
    "batch_size": 8,
    "data.length": 64,
    "model.pattern": ("local", "lsh"),
    "model.d_model": 32,
    "model.d_ff": 64,
    "model.head_dim": 16,
    "model.axial.dims": (16, 16),
    "model.local.chunk_size": 16,
    "model.lsh.chunk_size": 16,
    "model.dropout": 0.1,
    "optimizer.schedule": "constant",  # whatever the number of steps
    "eval.context": 64,
    "eval.stride": 32,
    "eval.limit": 500,
    "eval.every": 4,
    "eval.test": False,
    "checkpoint.every": 3,
    "log_every": 1,
    "sample.length": 0,
}


def arguments(name, workdir, *flags, **settings):
    """Of `python -m effjax.NAME` on a small Reformer, or on what `workdir` holds."""
    if name == "train":
        small = SMALL | {key.replace("__", "."): value for key, value in settings.items()}
        overrides = [f"--config.{key}={value}" for key, value in small.items()]
        flags = ["--config=configs/reformer_enwik8.py:tiny", *overrides, *flags]
    return [f"--workdir={workdir}", *flags]


def command(name, workdir, *flags, devices=1, **settings):
    """Starts such a command."""
    flags_of_xla = f"--xla_force_host_platform_device_count={devices} {os.environ['QUICK_XLA_FLAGS']}"
    environment = os.environ | {"XLA_FLAGS": flags_of_xla}
    return subprocess.Popen(
        [sys.executable, "-m", f"effjax.{name}", *arguments(name, workdir, *flags, **settings)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("reformer")]  # one process trains what they share


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workdir after ten steps, never interrupted."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    finish(command("train", workdir, steps=10))
    return workdir


def test_killed_and_started_again_the_losses_are_the_same_bits(trained, tmp_path):
    for rows in (2, 5):  # before, and some time after, the first checkpoint
        process = command("train", tmp_path, steps=10)
        wait_for_rows(tmp_path, process, rows)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    finish(command("train", tmp_path, steps=10))
    assert [row["step"] for row in rows_of(trained)] == list(range(1, 11))
    assert rows_of(tmp_path) == rows_of(trained)


def test_two_processes_of_four_devices_and_back_to_one_and_four(trained, tmp_path):
    """Trained on eight devices in two processes, continued on four and then on one: the losses of one device."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"--coordinator=localhost:{free.getsockname()[1]}"
    flags = [coordinator, "--num_processes=2"]
    two = [
        command("train", tmp_path, *flags, f"--process_id={i}", devices=4, steps=4, mesh__fsdp=2, mesh__tensor=2)
        for i in range(2)
    ]
    finish(*two)
    finish(command("train", tmp_path, devices=4, steps=7, mesh__fsdp=4))
    finish(command("train", tmp_path, steps=10))
    rows, alone = rows_of(tmp_path), rows_of(trained)
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert all(row["train/loss"] == pytest.approx(other["train/loss"], rel=1e-4) for row, other in zip(rows, alone))


def test_evaluate_and_generate(trained):
    scores, text, again = finish(
        command("evaluate", trained, "--split=test", "--limit=300", "--stride=16", "--json"),
        command("generate", trained, "--prompt=The ", "--length=20", "--top_k=5", "--seed=3"),
        command("generate", trained, "--prompt=The ", "--length=20", "--top_k=5", "--seed=3"),
    )
    scores = json.loads(scores)
    assert scores["step"] == 10 and scores["targets"] == 300
    assert 3 < scores["bits_per_byte"] < 8.5
    assert text.startswith("The ") and len(text) > 10 and text == again


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        (
            "generate",
            ["--length=200", "--prompt=" + "x" * 600],
            "a prompt of 600 tokens and 200 new ones exceed the 512 positions",
        ),
        ("generate", ["--length=9", "--prompt="], "the prompt is empty"),
        ("evaluate", ["--context=4096"], "context=4096 exceeds the 512 positions"),
        ("evaluate", ["--checkpoint=7777"], "no checkpoint of step 7777"),
        ("evaluate", ["--stroide=4"], "unknown argument '--stroide=4'; the nearest is --stride"),
        ("train", ["--config.optimizer.learning_rat=1"], "the nearest is --config.optimizer.learning_rate"),
        ("train", ["--config.data.name=enwik8", "--config.data.path=no/enwik8.zip"], "no/enwik8.zip"),
        ("train", ["--config.model.d_ff=65"], "holds another configuration: model.d_ff (64 there, 65 now)"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_1(trained, tmp_path, capsys, name, flags, message):
    workdir = tmp_path if "--config.data.name=enwik8" in flags else trained
    settings = {"steps": 10} if name == "train" else {}
    assert cli.run(importlib.import_module(f"effjax.{name}").main, arguments(name, workdir, *flags, **settings)) == 1
    check_one_line(capsys.readouterr().err, message)


def test_a_mistake_is_one_line_and_exit_code_1_in_a_process_too(trained):
    """Whatever the libraries below say to the process's own stream."""
    messages = {
        command("evaluate", trained, "--split=dev"): "split='dev'; one of train, valid, test is allowed",
        command("generate", trained, "--length=9", "--prompt="): "the prompt is empty",
        command("train", trained, steps=10, model__d_ff=65): "model.d_ff (64 there, 65 now)",
    }
    for process, message in messages.items():
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 1
        check_one_line(errors, message)


def check_one_line(errors, message):
    lines = [line for line in errors.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0], errors
