"""metrics.jsonl: no step twice, nothing lost, nothing left over; means that survive a restart."""

import json
import os

import jax.numpy as jnp
import pytest
from etils import epath

from effjax.errors import UserError
from effjax.training import metrics
from effjax.training.metrics import Means, MetricsLog, read_rows


def test_means_are_weighted_and_begin_anew():
    means = Means()
    means.add({"nats": (jnp.float32(6.0), jnp.float32(2.0)), "norm": (jnp.float32(1.0), jnp.float32(1.0))})
    means.add({"nats": (jnp.float32(2.0), jnp.float32(2.0)), "norm": (jnp.float32(0.0), jnp.float32(0.0))})
    assert means.take() == {"nats": 2.0, "norm": 1.0}
    assert means.take() == {}


def test_a_skipped_step_has_no_weight():
    means = Means()
    means.add({"nats": (jnp.float32(0.0), jnp.float32(0.0))})
    assert means.take() == {}


def test_sums_that_went_through_a_checkpoint_give_the_same_means():
    steps = [{"nats": (jnp.float32(0.1 * i), jnp.float32(3.0))} for i in range(7)]
    straight, first = Means(), Means()
    for step in steps:
        straight.add(step)
    for step in steps[:3]:
        first.add(step)
    second = Means(json.loads(json.dumps(first.sums())))
    for step in steps[3:]:
        second.add(step)
    assert second.take() == straight.take()


@pytest.fixture(params=["local", "remote"])
def workdir(request, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "is_remote", lambda path: request.param == "remote")
    return epath.Path(tmp_path)


def test_a_row_is_on_disk_when_write_returns(workdir):
    with MetricsLog(workdir, 0) as log:
        log.write(1, {"train/loss": 3.0})
        assert (workdir / "metrics.jsonl").read_text() == '{"step": 1, "train/loss": 3.0}\n'
        log.write(2, {"train/loss": 2.0})
        log.write(2, {"test/bits_per_byte": 1.0})
    assert read_rows(workdir / "metrics.jsonl") == [
        {"step": 1, "train/loss": 3.0},
        {"step": 2, "train/loss": 2.0, "test/bits_per_byte": 1.0},
    ]


def test_a_resumed_run_drops_the_rows_past_its_step_and_a_torn_line(workdir):
    with MetricsLog(workdir, 0) as log:
        for step in (1, 2, 3, 4):
            log.write(step, {"train/loss": float(step)})
    path = workdir / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 5, "tra')
    with MetricsLog(workdir, 2) as log:
        assert [row["step"] for row in read_rows(path)] == [1, 2]
        log.write(3, {"train/loss": 30.0})
    assert read_rows(path)[-1] == {"step": 3, "train/loss": 30.0}
    assert sorted(os.listdir(workdir)) == ["metrics.jsonl", "tensorboard"]


def test_every_line_is_strict_json(workdir):
    with MetricsLog(workdir, 0) as log:
        log.write(1, {"train/loss": float("nan"), "train/grad_norm": float("inf"), "train/skipped": 1})
    assert json.loads((workdir / "metrics.jsonl").read_text(), parse_constant=pytest.fail) == {
        "step": 1,
        "train/skipped": 1,
    }


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = epath.Path(tmp_path) / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2: not JSON"):
        read_rows(path)


def test_events_hold_the_same_numbers(workdir):
    from tensorboardX.event_file_writer import EventFileWriter  # noqa: F401  what writes them
    from tensorboardX.proto import event_pb2

    with MetricsLog(workdir, 0) as log:
        log.write(7, {"valid/bits_per_byte": 2.5})
    (file,) = (workdir / "tensorboard").iterdir()
    data, seen = file.read_bytes(), []
    while data:  # length uint64, its crc uint32, the event, its crc uint32
        length = int.from_bytes(data[:8], "little")
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        seen += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        data = data[16 + length :]
    assert (7, "valid/bits_per_byte", 2.5) in seen
