"""The adaptive span experiment: a run from training to text, trimming that leaves no trace."""

import contextlib
import io
import json

import numpy as np
import pytest

from effjax.layers import AdaptiveSpanAttention
from effjax.tasks import make_task
from effjax.training.config import load_config
from effjax.training.loop import train
from effjax.training.stages import stages_of


@pytest.mark.parametrize("source", ["enwik8.py", "enwik8.py:large", "text8.py", "text8.py:large", "text8.py:tiny"])
def test_presets_are_whole(source):
    config = load_config(f"configs/adaptive_span_{source}")
    make_task(config)
    assert stages_of(config)[-1].end == config.steps


def small(**changes):
    """The tiny preset, smaller still, with spans that outgrow their first trim within a few steps."""
    config = load_config("configs/adaptive_span_enwik8.py:tiny")
    config.steps, config.batch_size, config.log_every = 8, 8, 4
    config.data.length = config.eval.context = config.eval.stride = 32
    config.model.update(d_model=16, d_ff=32, n_heads=2, head_dim=8, n_layers=2)
    config.model.adaptive_span.update(max_span=512, ramp=16)
    config.model.init = ()
    config.optimizer.update(learning_rate=0.15, warmup=0, tensor_clip=0.0)
    config.eval.update(every=4, limit=600, batch_size=8, test=False)
    config.checkpoint.every = 4
    config.sample.update(length=12)
    config.update(changes)
    return config


def run(workdir, config):
    """The rows of a run, without what a clock wrote."""
    train(make_task(config), config, str(workdir))
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "train/tokens_per_second"} for row in rows]


@pytest.mark.slow
def test_trains_two_steps_evaluates_and_generates(tmp_path, capsys):
    rows = run(tmp_path, small(steps=2))
    assert rows[-1]["step"] == 2 and 2 < rows[-1]["valid/bits_per_byte"] < 12
    assert 0 < rows[-1]["train/mean_span"] < rows[-1]["train/max_span"] <= 512
    text = capsys.readouterr().out.split("generated text:\n")[1]
    assert text.startswith("The history of ") and len(text) > len("The history of ")


@pytest.fixture(scope="module")
def trimmed(tmp_path_factory):
    """The rows of a run whose spans grow from nothing, what it said, and what it visited."""
    said, visited = io.StringIO(), []
    adapt = AdaptiveSpanAttention.adapt

    def spy(layer, params, **options):
        visited.append(adapt(layer, params, **options))
        return visited[-1]

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(AdaptiveSpanAttention, "adapt", spy)
        rows = run(tmp_path_factory.mktemp("trimmed"), small(sample=dict(length=0)))
    return rows, said.getvalue(), [changes["visited"] for changes in visited if "visited" in changes]


@pytest.mark.slow
def test_trimming_leaves_no_trace_in_a_run(trimmed, tmp_path, monkeypatch):
    """What is computed grows with the spans, and the losses are those of computing all of it."""
    rows, said, visited = trimmed
    assert visited[0] == 128 and max(visited) > 128 and "outgrew the compiled step" in said
    monkeypatch.setattr(AdaptiveSpanAttention, "adapt", lambda layer, params, **options: {})
    whole = run(tmp_path, small(sample=dict(length=0)))
    assert [row.keys() for row in rows] == [row.keys() for row in whole]
    for ours, theirs in zip(rows, whole):
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=2e-4)


@pytest.mark.slow
def test_stopped_and_started_again_the_losses_are_the_same_bits(trimmed, tmp_path):
    run(tmp_path, small(steps=4, sample=dict(length=0)))
    assert run(tmp_path, small(sample=dict(length=0)))[-1] == trimmed[0][-1]
