"""Runs as processes: killed without warning, and several of them training one model."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.training.test_loop import rows_of

PROGRAM = pathlib.Path(__file__).with_name("fake_task.py")
ROOT = PROGRAM.parents[2]
pytestmark = pytest.mark.slow


def start(workdir, *flags, devices=1, **overrides):
    flags = [*flags, *(f"--{key}={value}" for key, value in overrides.items())]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {os.environ['QUICK_XLA_FLAGS']}",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05",
    }
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(workdir), *flags],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(*processes):
    """Waits for processes to succeed; returns what each printed."""
    outputs = [process.communicate(timeout=300) for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    return [out for out, _ in outputs]


def wait_for_rows(workdir, process, count):
    path = pathlib.Path(workdir, "metrics.jsonl")
    while not path.exists() or path.read_text().count("\n") < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def test_killed_at_any_moment_a_run_writes_what_it_would_have_written(tmp_path):
    options = dict(steps=60, log_every=2, checkpoint__every=5, eval__every=7, model__carry=True)
    finish(start(tmp_path / "whole", **options))
    killed_at = []
    for rows in (1, 11, 19, 31):  # the second kill lands before, while or after its first checkpoint is written
        process = start(tmp_path / "killed", **options)
        wait_for_rows(tmp_path / "killed", process, rows)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        killed_at.append(rows_of(tmp_path / "killed")[-1]["step"])
    finish(start(tmp_path / "killed", **options))
    assert killed_at[-1] < 60
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")


def start_two(workdir, **overrides):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = [f"--coordinator={address}", "--num_processes=2"]
    return [start(workdir, *flags, f"--process_id={i}", devices=4, **overrides) for i in range(2)]


def test_two_processes_of_four_devices_train_one_model(tmp_path):
    rules = "(('table',('fsdp',)),('kernel',(None,'fsdp')))"
    options = dict(steps=8, log_every=3, model__carry=True, model__width=512, sharding=rules)
    outputs = finish(*start_two(tmp_path / "two", mesh__fsdp=8, **options))
    assert all(f"Hello from process {i}/2" in outputs[i] for i in range(2))
    assert "test/bits_per_byte" in outputs[0] and "test/bits_per_byte" not in outputs[1]
    finish(start(tmp_path / "one", devices=1, **options))
    two, one = rows_of(tmp_path / "two"), rows_of(tmp_path / "one")
    assert [row["step"] for row in two] == [row["step"] for row in one]
    for a, b in zip(two, one):
        np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-5)

    # Damage to what only one of them reads is reported by both, which go on from the checkpoint before.
    written = (tmp_path / "two" / "checkpoints" / "8" / "params" / "ocdbt.process_1" / "d").iterdir()
    largest = max(written, key=lambda path: path.stat().st_size)
    largest.write_bytes(b"")
    outputs = finish(*start_two(tmp_path / "two", mesh__fsdp=8, **options | dict(steps=10)))
    assert "step 8 is damaged (another process cannot read its part)" in outputs[0]
    assert "continuing from the checkpoint of step 6" in outputs[0]

    # What two processes saved, one goes on from, with other devices.
    (out,) = finish(start(tmp_path / "two", devices=2, **options | dict(steps=12)))
    assert "continuing from the checkpoint of step 10" in out
    assert [row["step"] for row in rows_of(tmp_path / "two")] == [3, 4, 6, 8, 9, 10, 12]


def test_sigterm_to_one_process_stops_both_at_one_step(tmp_path):
    processes = start_two(tmp_path, steps=100_000, checkpoint__every=0, eval__every=0)
    wait_for_rows(tmp_path, processes[0], 5)
    processes[1].send_signal(signal.SIGTERM)
    out, _ = finish(*processes)
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    assert f"stopped after step {int(checkpoint.name):,}" in out
