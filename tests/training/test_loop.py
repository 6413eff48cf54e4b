"""The loop as a whole, on the fake task: what a run leaves behind, and that interruptions leave no trace in it."""

import json
import os
import pathlib
import shutil
import signal

import pytest

from effjax.errors import UserError
from effjax.training.loop import train, train_to_the_end
from effjax.training.workdir import load_saved_config, open_workdir
from tests.training.fake_task import FakeTask, Reader, fake_config


def rows_of(workdir):
    """The rows of a run without what a clock wrote."""
    lines = pathlib.Path(workdir, "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "train/tokens_per_second"} for line in lines]


def run(workdir, task=FakeTask, **overrides):
    config = fake_config(**overrides)
    return train(task(config), config, str(workdir))


OPTIONS = dict(log_every=5, eval__every=4, model__carry=True, accumulate=1, model__bad_steps=(2,))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    result = run(workdir, **OPTIONS)
    return workdir, result


def test_a_run_leaves_its_configuration_metrics_curves_events_and_checkpoints(uninterrupted):
    workdir, result = uninterrupted
    names = {path.name for path in workdir.iterdir()}
    assert names == {"config.json", "metrics.jsonl", "curves.png", "tensorboard", "checkpoints"}
    assert load_saved_config(open_workdir(str(workdir))).model.bad_steps == (2,)
    rows = rows_of(workdir)
    assert [row["step"] for row in rows] == [4, 5, 8, 10, 12]
    assert rows[-1]["test/bits_per_byte"] == result["test/bits_per_byte"] < 4.5 < rows[1]["train/bits_per_byte"]
    assert [("train/loss" in row, "valid/bits_per_byte" in row) for row in rows] == [
        (False, True), (True, False), (False, True), (True, False), (True, True)
    ]  # fmt: skip
    assert rows[-1]["train/skipped"] == 1 and "12" in {path.name for path in (workdir / "checkpoints").iterdir()}


def test_phases_are_announced_and_the_result_comes_last(tmp_path, capsys):
    run(tmp_path, steps=2, sample__prompt="Once ")
    out = capsys.readouterr()
    lines = out.out.splitlines()
    assert lines[0].startswith("Hello from process 0/1, devices [CpuDevice(id=0)")
    phases = ("1,056 parameters", "initialising", "training from step 0 to 2", "compiling", "scoring the test split")
    positions = [next(i for i, line in enumerate(lines) if phase in line) for phase in phases]
    assert positions == sorted(positions)
    assert out.err == ""
    assert any("test/bits_per_byte = " in line for line in lines[positions[-1] : -3])
    assert lines[-3].endswith(f"curves: {tmp_path / 'curves.png'}")
    assert lines[-2].endswith("generated text:") and lines[-1].startswith("Once sampled with")


def test_a_mistake_in_sampling_loses_nothing(tmp_path, capsys):
    class Mute(FakeTask):
        def sample(self, params, key):
            raise UserError("nothing to say")

    with pytest.raises(UserError, match="nothing to say"):
        run(tmp_path, task=Mute, steps=2)
    assert "test/bits_per_byte = " in capsys.readouterr().out
    assert "test/bits_per_byte" in rows_of(tmp_path)[-1]
    assert (tmp_path / "curves.png").exists() and (tmp_path / "checkpoints" / "2").is_dir()


def test_a_workdir_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the workdir .*file/run cannot be written to: Not a directory"):
        run(tmp_path / "file" / "run", steps=1)


@pytest.mark.slow
def test_a_longer_run_goes_on_from_a_shorter_one(uninterrupted, tmp_path):
    run(tmp_path, steps=7, **OPTIONS)
    result = run(tmp_path, **OPTIONS)
    assert result == uninterrupted[1]
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == [4, 5, 7, 8, 10, 12] and rows[-1] == rows_of(uninterrupted[0])[-1]


def test_a_finished_run_started_again_changes_nothing(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted[0], tmp_path, dirs_exist_ok=True)
    assert run(tmp_path, **OPTIONS) == uninterrupted[1]
    assert rows_of(tmp_path) == rows_of(uninterrupted[0])


class Interrupted(FakeTask):
    """Sends SIGTERM to this process while the batch of step `at` is read."""

    at = None

    def train_reader(self, *share):
        at = self.at

        class SendingReader(Reader):
            def iterate(self, start_step):
                for step, batch in enumerate(super().iterate(start_step), start_step + 1):
                    if step == at:
                        os.kill(os.getpid(), signal.SIGTERM)
                    yield batch

        return SendingReader(self.config, *share)


@pytest.mark.parametrize("step", [7, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 11))])
def test_sigterm_finishes_the_step_saves_it_and_stops(uninterrupted, tmp_path, capsys, monkeypatch, step):
    monkeypatch.setattr(Interrupted, "at", step)
    before = signal.getsignal(signal.SIGTERM)
    assert run(tmp_path, task=Interrupted, **OPTIONS) == {}
    assert f"stopped after step {step}," in capsys.readouterr().out and signal.getsignal(signal.SIGTERM) is before
    assert f"{step}" in {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert run(tmp_path, **OPTIONS) == uninterrupted[1]
    assert rows_of(tmp_path) == rows_of(uninterrupted[0])


def test_a_script_that_needs_the_end_of_a_run_does_not_go_on_without_it(tmp_path, monkeypatch):
    config = fake_config(**OPTIONS)
    monkeypatch.setattr(Interrupted, "at", 7)
    with pytest.raises(UserError, match="stopped before step 12; the same command goes on"):
        train_to_the_end(Interrupted(config), config, str(tmp_path))
    assert train_to_the_end(FakeTask(config), config, str(tmp_path))


@pytest.mark.usefixtures("damaging")
def test_a_damaged_newest_checkpoint_costs_steps_and_nothing_else(uninterrupted, tmp_path, capsys):
    shutil.copytree(uninterrupted[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "checkpoints" / "12" / "params" / "manifest.ocdbt").unlink()
    assert run(tmp_path, **OPTIONS) == uninterrupted[1]
    assert rows_of(tmp_path) == rows_of(uninterrupted[0])
    assert "checkpoint of step 12 is damaged" in capsys.readouterr().out
    assert (tmp_path / "damaged_checkpoints" / "12").is_dir() and (tmp_path / "checkpoints" / "12").is_dir()


def test_too_many_bad_steps_stop_with_their_number_and_the_last_checkpoint(tmp_path):
    options = dict(model__bad_steps=(2, 5, 6, 7, 8), max_bad_steps=3, log_every=4, checkpoint__every=4)
    message = (
        r"stopped at step 7: .* not finite from step 5 on, 3 steps in a row .* last finite checkpoint is that of step 4"
    )
    with pytest.raises(UserError, match=message):
        run(tmp_path, **options)
    rows = rows_of(tmp_path)
    assert rows[-1]["step"] == 8 and rows[-1]["train/skipped"] == 5 and "train/loss" not in rows[-1]


def test_the_best_checkpoint_is_kept_though_it_is_old(tmp_path):
    class Worsening(FakeTask):
        def evaluate(self, params, split, *, limit=None, mesh=None):
            self.calls = getattr(self, "calls", 0) + 1
            return {"bits_per_byte": [float("nan"), 1.0, 2.0, float("nan"), 2.2, 9.9, 9.9][self.calls - 1]}

    run(tmp_path, task=Worsening, eval__every=2, checkpoint__every=3, checkpoint__keep=1)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"4", "12"}


def test_a_workdir_of_another_configuration_is_refused_and_left_alone(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted[0], tmp_path, dirs_exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(UserError, match=r"holds another configuration: batch_size \(8 there, 16 now\)"):
        run(tmp_path, batch_size=16, **OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_score_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match=r"config\.eval\.metric='accuracy'; the scores are bits_per_byte, targets"):
        run(tmp_path, steps=1, eval__metric="accuracy")
