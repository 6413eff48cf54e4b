"""The Performer experiment, small: two steps, a projection drawn anew, a score, a text, from one directory."""

import json

import jax
import numpy as np
import pytest

from effjax import cli, evaluate, generate
from effjax.errors import UserError
from effjax.tasks import make_task
from effjax.training.config import load_config
from effjax.training.loop import train
from effjax.training.restore import restore_on_all_devices

SMALL = {
    "steps": 2,
    "log_every": 1,
    "batch_size": 8,
    "data.length": 32,
    "model.d_model": 32,
    "model.d_ff": 64,
    "model.head_dim": 16,
    "model.n_layers": 2,
    "model.performer.n_features": 8,
    "model.performer.redraw_interval": 2,
    "eval.context": 32,
    "eval.stride": 32,
    "eval.limit": 300,
    "eval.test": False,
    "sample.length": 0,
}


@pytest.mark.slow
def test_trains_scores_and_generates(tmp_path, capsys):
    config = load_config("configs/performer_enwik8.py:tiny")
    config.update_from_flattened_dict(SMALL)
    task = make_task(config)
    before = jax.jit(task.init)(jax.random.split(jax.random.key(config.seed))[0])
    train(task, config, str(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2] and 6 < rows[1]["train/bits_per_byte"] < 9

    # The checkpoint holds the projection that the last step drew, and scores are taken with it.
    _, after, _ = restore_on_all_devices(task, str(tmp_path))
    old, new = (params["stack"]["period"]["mixing_0"]["mixer"]["projection"] for params in (before, after))
    assert old.shape == new.shape == (2, 8, 16) and np.abs(np.asarray(old) - np.asarray(new)).min() > 0
    capsys.readouterr()
    assert cli.run(evaluate.main, [f"--workdir={tmp_path}", "--split=valid", "--limit=300", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["targets"] == 300
    assert scores["bits_per_byte"] == pytest.approx(rows[1]["valid/bits_per_byte"], abs=1e-4)

    assert cli.run(generate.main, [f"--workdir={tmp_path}", "--prompt=The history of", "--length=8"]) == 0
    assert capsys.readouterr().out.startswith("The history of")


def test_streams_keep_the_projection():
    """What one step's features have summed up is of no use under another projection."""
    config = load_config("configs/performer_enwik8.py:tiny")
    config.update_from_flattened_dict(SMALL | {"data.reader": "streams"})
    with pytest.raises(UserError, match=r"redraw_interval=2\)"):
        make_task(config)
    config.model.performer.redraw_interval = 0
    task = make_task(config)
    assert len(jax.tree.leaves(task.initial_carry(2))) > 0


def test_a_stream_never_grows():
    model = make_task(load_config("configs/performer_text8.py")).model
    assert model.streams_forever and model.max_length is None
    state = jax.eval_shape(lambda: model.initial_state(1, max_length=10**9))
    assert sum(leaf.size for leaf in jax.tree.leaves(state.blocks)) == 12 * (8 * (65 * 256 + 1) + 2)
