"""The Longformer experiment, small: two steps, in one stage or in two, a score and a text, from one directory."""

import json

import pytest

from effjax import cli, evaluate, generate
from effjax.tasks import make_task
from effjax.training.config import load_config
from effjax.training.loop import train

SMALL = {
    "steps": 2,
    "log_every": 1,
    "batch_size": 8,
    "model.d_model": 32,
    "model.d_ff": 64,
    "model.n_layers": 2,
    "eval.limit": 300,
    "eval.batch_size": 8,
    "eval.test": False,
    "sample.length": 8,
}


def small():
    config = load_config("configs/longformer_enwik8.py:tiny")
    config.update_from_flattened_dict(SMALL)
    return config


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_trains_two_steps_scores_and_generates(tmp_path, capsys):
    config = small()
    train(make_task(config), config, str(tmp_path))
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == [1, 2] and 6 < rows[1]["train/bits_per_byte"] < 20
    text = capsys.readouterr().out.split("generated text:\n")[1]
    assert text.startswith("The history of ") and len(text) > len("The history of ")

    assert cli.run(evaluate.main, [f"--workdir={tmp_path}", "--split=valid", "--limit=300", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["targets"] == 300
    assert scores["bits_per_byte"] == pytest.approx(rows[1]["valid/bits_per_byte"], abs=1e-4)


@pytest.mark.slow
def test_wider_windows_over_longer_text_in_the_second_stage(tmp_path, capsys):
    config = small()
    config.model.update(pattern=("longformer",), n_layers=1)
    config.model.longformer.update(window=(16,), dilation=((1, 2),))
    second = dict(config.stages[1][1]) | {"model.longformer.window": (32,)}
    config.stages = ((1, ()), (1, tuple(second.items())))
    train(make_task(config), config, str(tmp_path))
    assert "stage 2 begins, to step 2" in capsys.readouterr().out
    rows = rows_of(tmp_path)
    assert [round(row["train/learning_rate"] * 50, 6) for row in rows] == [0.002, 0.001]  # both warm up

    # A checkpoint is scored and continued by the model of the stage that it comes from.
    assert cli.run(evaluate.main, [f"--workdir={tmp_path}", "--split=valid", "--limit=300", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["bits_per_byte"] == pytest.approx(rows[1]["valid/bits_per_byte"], abs=1e-4)
    assert cli.run(generate.main, [f"--workdir={tmp_path}", "--prompt=The history of", "--length=8"]) == 0
    assert capsys.readouterr().out.startswith("The history of")
