"""The Transformer-XL experiment, small: two steps with a memory, scores over streams, and a text."""

import json

import pytest

from effjax.tasks import make_task
from effjax.training.config import load_config
from effjax.training.loop import train

SMALL = {
    "steps": 2,
    "log_every": 1,
    "batch_size": 8,
    "data.length": 32,
    "model.d_model": 32,
    "model.d_ff": 64,
    "model.head_dim": 16,
    "model.n_layers": 2,
    "model.transformer_xl.memory_length": 32,
    "eval.context": 32,
    "eval.limit": 600,
    "sample.length": 8,
}


@pytest.mark.slow
def test_trains_with_a_memory_scores_and_generates(tmp_path, capsys):
    config = load_config("configs/transformer_xl_enwik8.py:tiny")
    config.update_from_flattened_dict(SMALL)
    train(make_task(config), config, str(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows[:2]] == [1, 2] and 6 < rows[1]["train/bits_per_byte"] < 9
    assert 6 < rows[-1]["valid/bits_per_byte"] < 9 and "test/bits_per_byte" in rows[-1]
    text = capsys.readouterr().out.split("generated text:\n")[1]
    assert text.startswith("The history of ") and len(text) > len("The history of ")
