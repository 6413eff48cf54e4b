"""The Longformer experiment, small: a step in each of two stages, a score and a text, from one directory."""

import json

from effjax import cli, evaluate, generate
from effjax.tasks import make_task
from effjax.training.config import load_config
from effjax.training.loop import train

SMALL = {
    "steps": 2,
    "log_every": 1,
    "batch_size": 8,
    "eval.limit": 300,
    "eval.batch_size": 8,
    "eval.test": False,
    "sample.length": 0,
}


def test_trains_in_stages_scores_and_generates(tmp_path, capsys):
    config = load_config("configs/longformer_enwik8.py:tiny")
    config.update_from_flattened_dict(SMALL)
    second = dict(config.stages[1][1]) | {"batch_size": 8, "data.length": 160}
    config.stages = ((1, ()), (1, tuple(second.items())))
    train(make_task(config), config, str(tmp_path))
    assert "stage 2 begins, to step 2" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [round(row["train/learning_rate"] * 50, 6) for row in rows] == [0.002, 0.001]  # both warm up
    assert 7 < rows[1]["train/bits_per_byte"] < 20

    assert cli.run(evaluate.main, [f"--workdir={tmp_path}", "--split=valid", "--limit=300", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["targets"] == 300 and abs(scores["bits_per_byte"] - rows[1]["valid/bits_per_byte"]) < 1e-4

    assert cli.run(generate.main, [f"--workdir={tmp_path}", "--prompt=The history of", "--length=8"]) == 0
    assert capsys.readouterr().out.startswith("The history of")
