"""Language models of PG-19, small: two steps, and books that do not see each other, in windows and in streams."""

import json

import jax
import numpy as np
import pytest

from effjax.tasks import make_task
from effjax.training.config import load_config
from effjax.training.loop import train
from tests import test_reformer, test_transformer_xl
from tests.data import records

SIZES = {
    "transformer_xl": {**test_transformer_xl.SMALL, "batch_size": 2, "eval.batch_size": 2},
    "reformer": {**test_reformer.SMALL, "steps": 2},
}
BOOKS = ((700, 0, 300), (400,), (250, 350))


def small_config(name, path, **settings):
    config = load_config(f"configs/{name}_pg19.py:tiny")
    fixed = {"data.path": str(path), "sample.length": 0, "eval.test": False, "eval.limit": 0}
    config.update_from_flattened_dict(SIZES[name] | fixed | settings)
    return config


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transformer_xl", "reformer"])
def test_the_score_of_books_in_a_row_is_that_of_each_alone(name, tmp_path):
    """Neither memory nor window reaches over the beginning of a book."""
    whole, alone = tmp_path / "whole", [tmp_path / f"book_{i}" for i in range(2)]
    for folder, test in ((whole, (96, 64)), (alone[0], (96,)), (alone[1], (64,))):
        folder.mkdir()
        records.write_books(folder, sizes=((300,), (200,), test))
    books = [(whole / "test" / f"{3 + i}.txt").read_bytes() for i in range(2)]
    for folder, book in zip(alone, books):
        (folder / "test" / "3.txt").write_bytes(book)
    # One stream, or windows that begin with the books, so that all tokens have the same distance from their beginning.
    rules = {"eval.batch_size": 1, "eval.context": 32, "eval.stride": 32, "data.length": 32}
    if name == "reformer":  # local layers, whose chunks begin with the books; LSH's are sorted among all there are
        rules |= {"model.pattern": ("local",)}
    tasks = [make_task(small_config(name, folder, **rules)) for folder in (whole, *alone)]
    params = jax.jit(tasks[0].init)(jax.random.key(0))
    scores = [task.evaluate(params, "test") for task in tasks]
    assert [score["targets"] for score in scores] == [158, 95, 63]
    together = (scores[1]["loss"] * 95 + scores[2]["loss"] * 63) / 158
    assert scores[0]["loss"] == pytest.approx(together, rel=2e-6)


@pytest.mark.slow
def test_trains_on_books_and_scores(tmp_path):
    config = small_config(
        "transformer_xl", records.write_books(tmp_path, BOOKS), **{"batch_size": 8, "eval.batch_size": 8}
    )
    train(make_task(config), config, str(tmp_path / "run"))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2] and 4 < rows[1]["valid/bits_per_byte"] < 10
    assert np.isfinite(rows[1]["train/loss"])
