"""What a person sees, and the numbers in it."""

import io
import sys

import jax
import jax.numpy as jnp
import pytest

from effjax.training import progress
from effjax.training.progress import Console, Speed, printable, status, utilisation_flops


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_phases_are_lines_with_their_time(capsys):
    Console().say("compiling")
    out = capsys.readouterr().out
    assert out.startswith("[") and out.endswith(" s] compiling\n")


def test_the_live_line_is_silent_without_a_terminal(capsys):
    Console().live("step 1/2")
    assert capsys.readouterr().err == ""


def test_the_live_line_is_written_over_and_cleared(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    console = Console()
    console.live("step 10/20  loss 1.0")
    console.live("step 11/20")
    assert terminal.getvalue() == "\rstep 10/20  loss 1.0\rstep 11/20          "
    console.say("done")
    assert terminal.getvalue().endswith("\r" + " " * len("step 11/20") + "\r") and "\n" not in terminal.getvalue()


def test_the_status_says_where_a_run_stands():
    metrics = {"loss": 1.23456, "bits_per_byte": 1.781, "tokens_per_second": 91022.4, "mfu": 0.413}
    expected = "step 1,200/10,000  loss 1.235  bits_per_byte 1.781  91,022 tokens/s  MFU 41%  ETA 1:02:05"
    assert status(1200, 10_000, metrics, 3724.6) == expected


def test_speed_counts_only_the_time_since_it_was_resumed(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "peak_flops", lambda kind: 1e3)
    speed = Speed(step=0, steps=50, tokens=64, flops=4e3)
    now[0] += 1000.0  # scoring, saving
    speed.resume(10)
    now[0] += 5.0
    metrics, left = speed.read(20)
    assert metrics == {"tokens_per_second": 128.0, "mfu": pytest.approx(8.0)} and left == 15.0


class Products:
    """A task whose forward pass is one product of [8, 4] and [4, 16]."""

    def initial_carry(self, batch_size):
        return ()

    def loss(self, params, batch, carry, *, key, deterministic):
        return jnp.sum(batch["inputs"] @ params), ({}, carry)


def test_model_flops_are_three_forward_passes_where_the_peak_is_known(monkeypatch):
    params, batch = jnp.ones((4, 16)), {"inputs": jax.ShapeDtypeStruct((8, 4), jnp.float32)}
    assert utilisation_flops(Products(), 8, params, batch) is None
    monkeypatch.setattr(progress, "peak_flops", lambda kind: 1e12)
    assert utilisation_flops(Products(), 8, params, batch) == 3 * 2 * 8 * 4 * 16


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "caf? ?"), ("utf-8", "caf\u00e9 ?")])
def test_what_the_terminal_cannot_show_is_a_question_mark(monkeypatch, encoding, shown):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert printable("caf\u00e9 \udcff") == shown
