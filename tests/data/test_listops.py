"""ListOps: the grammar against a plain evaluator, its sizes, and the official files."""

import csv

import numpy as np
import pytest

from effjax.data import listops
from effjax.data.listops_trees import TOKENS, generate
from effjax.errors import UserError
from effjax.training.config import load_config

SMALL = dict(max_depth=5, max_args=6, min_tokens=8, max_tokens=90)
MEANING = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(np.median(values)),
    "[SM": lambda values: sum(values) % 10,
}


def evaluate(words):
    """The value of an expression, word by word, with a stack; and its depth."""
    stack, deepest = [[]], 0
    for word in words:
        if word in MEANING:
            stack.append([word])
            deepest = max(deepest, len(stack))
        elif word == "]":
            operator, *values = stack.pop()
            assert 2 <= len(values) <= SMALL["max_args"]
            stack[-1].append(MEANING[operator](values))
        else:
            stack[-1].append(int(word))
    [[value]] = stack
    return value, deepest


def test_values_are_those_of_a_plain_evaluator_and_sizes_are_kept():
    trees = list(generate(400, seed=0, **SMALL))
    for tokens, value in trees:
        expected, depth = evaluate([TOKENS[token] for token in tokens])
        assert value == expected and 2 <= depth <= SMALL["max_depth"]
        assert SMALL["min_tokens"] < len(tokens) < SMALL["max_tokens"]
    assert len({tokens.tobytes() for tokens, _ in trees}) == 400
    counts = np.bincount(np.concatenate([tokens for tokens, _ in trees]), minlength=len(TOKENS))
    assert counts.min() > 0 and counts[10:14].sum() == counts[14]


def test_operators_are_a_quarter_of_the_nodes_below_the_root():
    free = dict(max_depth=3, max_args=4, min_tokens=1, max_tokens=100)
    n_operators = n_nodes = 0
    for tokens, _ in generate(3000, seed=1, **free):
        depth = np.cumsum((tokens >= 10) & (tokens < 14)) - np.cumsum(tokens == 14)
        arguments = depth[:-1] == 1
        n_nodes += np.sum(arguments & (tokens[1:] < 10)) + np.sum((depth[1:] == 2) & (tokens[1:] >= 10))
        n_operators += np.sum((depth[1:] == 2) & (tokens[1:] >= 10) & (tokens[1:] < 14))
        n_nodes -= np.sum((depth[1:] == 2) & (tokens[1:] == 14))
    # Different trees are kept once, which favours the rarer, longer ones.
    assert 0.2 < n_operators / n_nodes < 0.5


def test_the_first_trees_do_not_depend_on_how_many_are_wanted():
    few, many = ([t.tobytes() for t, _ in generate(n, seed=3, **SMALL)] for n in (5, 50))
    other = [t.tobytes() for t, _ in generate(5, seed=4, **SMALL)]
    assert few == many[:5] and few != other


def test_the_arenas_sizes_come_out():
    [(tokens, value)] = generate(1, seed=0)
    assert 500 < len(tokens) < 2000 and 0 <= value <= 9


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(max_depth=1), "max_depth=1"),
        (dict(min_tokens=90), "min_tokens=90"),
        (dict(min_tokens=5000, max_tokens=9000), "hardly ever"),
    ],
)
def test_sizes_that_give_no_trees_are_named(sizes, message):
    with pytest.raises(UserError, match=message):
        next(generate(1, seed=0, **SMALL | sizes))


@pytest.fixture
def config(tmp_path):
    config = load_config("configs/lra_listops.py:tiny").unlock()
    config.data.path = str(tmp_path)
    for name in listops.FILES.values():
        with open(tmp_path / name, "w", newline="") as file:
            rows = [
                ["Source", "Target"],
                ["( ( ( ( [MAX 2 ) 9 ) ( ( ( [SM 4 ) 7 ) ] ) ) ] )", 9],
                ["( ( [MIN 3 ) ] )", 3],
            ]
            csv.writer(file, delimiter="\t").writerows(rows)
    return config


def test_official_files_are_read(config):
    splits = listops.load(config)
    assert set(splits) == {"train", "valid", "test"}
    batch = splits["test"].batch(np.arange(2), None)
    rows = {int(label): [TOKENS[i] for i in row[there]] for label, row, there in zip(*rows_of(batch))}
    assert rows == {9: "[MAX 2 9 [SM 4 7 ] ]".split(), 3: "[MIN 3 ]".split()}


def rows_of(batch):
    return batch["labels"], batch["inputs"], batch["padding_mask"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the first line is not Source, Target"),
        ("Source\tTarget\n[MAX 1 2 ]\t2\n[MIN 1", "basic_val.tsv: line 3 is no expression"),
        ("Source\tTarget\n[MAX 1 2 ]\t\n", "line 2 is no expression with a digit"),
        ("Source\tTarget\n[AVG 1 2 ]\t2\n", r"line 2: '\[AVG' is no part of ListOps"),
        ("Source\tTarget\n[MAX 1 2 ]\t12\n", "line 2 has the label 12"),
    ],
)
def test_damaged_files_are_named_with_their_line(config, tmp_path, content, message):
    (tmp_path / "basic_val.tsv").write_text(content)
    with pytest.raises(UserError, match=message):
        listops.load(config)


def test_a_missing_file_is_named(config, tmp_path):
    (tmp_path / "basic_test.tsv").unlink()
    with pytest.raises(UserError, match=r"basic_test.tsv: there is no such file"):
        listops.load(config)
