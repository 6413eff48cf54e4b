"""Words from end to end: two steps with an adaptive softmax, perplexity over streams, and a text of words."""

import json

import pytest

from effjax import cli, evaluate, generate
from effjax.plan import count_parameters
from effjax.tasks import make_task
from effjax.training.config import load_config
from effjax.training.loop import train

SMALL = {
    "steps": 2,
    "log_every": 1,
    "batch_size": 8,
    "data.length": 16,
    "data.vocabulary": "words:200",
    "model.d_model": 16,
    "model.d_ff": 32,
    "model.head_dim": 8,
    "model.n_layers": 2,
    "model.transformer_xl.memory_length": 16,
    "model.adaptive.cutoffs": (20, 80),
    "eval.context": 16,
    "eval.limit": 200,
    "eval.test": False,
    "sample.length": 5,
}


@pytest.mark.slow
def test_trains_scores_and_generates(tmp_path, capsys):
    config = load_config("configs/transformer_xl_wikitext103.py:tiny")
    config.update_from_flattened_dict(SMALL)
    train(make_task(config), config, str(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows[:2]] == [1, 2]
    # Before training, words of the head share 22 ways of going on, those of the tails more.
    assert 22 < rows[0]["train/perplexity"] < 200 and 10 < rows[-1]["valid/perplexity"] < 200
    assert len(capsys.readouterr().out.split("generated text:\n")[1].split()) >= 3
    assert cli.run(evaluate.main, [f"--workdir={tmp_path}", "--split=valid", "--limit=200", "--json"]) == 0
    assert abs(json.loads(capsys.readouterr().out)["perplexity"] / rows[-1]["valid/perplexity"] - 1) < 1e-4
    assert cli.run(generate.main, [f"--workdir={tmp_path}", "--prompt=the history of", "--length=5"]) == 0
    assert capsys.readouterr().out.startswith("the history of")


def test_a_plan_of_the_whole_needs_no_text(monkeypatch):
    """The size of the vocabulary is in its name."""
    monkeypatch.setattr("effjax.tasks.language_modelling.load_corpus", None)
    task = make_task(load_config("configs/transformer_xl_wikitext103.py"))
    counts = count_parameters(task.abstract_params)
    assert counts["total"] == 151_107_538
    words = sum(count for part, count in counts["by_part"].items() if part.startswith("vocabulary"))
    assert words == 267_735 * (410 + 1) + 3 * (410 + 1)


def test_words_are_scored_by_perplexity():
    task = make_task(load_config("configs/transformer_xl_wikitext103.py:tiny"))
    scores = task.report({"nats": 2.0}, kept=0.2)
    assert scores["perplexity"] == pytest.approx(7.389, abs=1e-3)
    assert scores["bits_per_original_byte"] == pytest.approx(0.2 * scores["bits_per_symbol"])
    assert task.report({"nats": 1e4}, kept=0.2)["perplexity"] > 1e300
