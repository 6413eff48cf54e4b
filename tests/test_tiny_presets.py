"""The tiny preset of the configurations that have no test of their own: two steps, a score, a text."""

import json

import pytest

from effjax import cli, evaluate, generate
from effjax.tasks import make_task
from effjax.training.config import load_config
from effjax.training.loop import train
from tests import test_longformer, test_performer, test_reformer, test_sparse_transformer, test_transformer_xl

SIZES = {
    "adaptive_span_text8": {},
    "longformer_text8": test_longformer.SMALL,
    "performer_text8": test_performer.SMALL,
    "reformer_text8": test_reformer.SMALL,
    "sparse_transformer_text8": test_sparse_transformer.SMALL,
    "transformer_xl_text8": test_transformer_xl.SMALL,
}
SMALL = {"steps": 2, "log_every": 1, "eval.every": 2, "eval.limit": 200, "eval.test": False, "sample.length": 0}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_trains_scores_and_generates(name, tmp_path, capsys):
    config = load_config(f"configs/{name}.py:tiny")
    config.update_from_flattened_dict(SIZES[name] | SMALL)
    train(make_task(config), config, str(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert 0 < rows[1]["valid/bits_per_byte"] < 9
    capsys.readouterr()
    assert cli.run(evaluate.main, [f"--workdir={tmp_path}", "--split=valid", "--limit=200", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["targets"] == 200 and abs(scores["bits_per_byte"] - rows[1]["valid/bits_per_byte"]) < 1e-4
    assert cli.run(generate.main, [f"--workdir={tmp_path}", "--prompt=the history of", "--length=8"]) == 0
    assert capsys.readouterr().out.startswith("the history of")
