"""Classification from configurations: two steps, scores, predictions, an encoder that was there before, mistakes."""

import functools
import json

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from effjax import cli, evaluate, predict
from effjax.data.examples import scoring_examples
from effjax.errors import UserError
from effjax.tasks import make_task
from effjax.training.checkpoints import Checkpoints
from effjax.training.config import apply_overrides, load_config
from effjax.training.loop import train
from effjax.training.optimizers import make_optimizer
from effjax.training.sharding import make_mesh
from effjax.training.state import initial_state
from effjax.training.workdir import open_workdir, save_config
from tests.data import records

SMALL = {
    "steps": 2,
    "log_every": 1,
    "batch_size": 8,
    "model.d_model": 16,
    "model.d_ff": 24,
    "model.head_dim": 8,
    "model.n_layers": 1,
    "eval.every": 0,
    "eval.batch_size": 8,
    "eval.limit": 16,
}
LISTS = {"options.sizes": (16, 9, 9), "data.length": 60, "options.max_tokens": 60}
PEOPLE = {"data.length": 32, "model.longformer.window": (4,), "data.vocabulary": "hashed_words:64"}
HYPERPARTISAN = PEOPLE | {"data.name": "hyperpartisan"}


def small_config(name, path="", overrides=(), **settings):
    config = load_config(f"configs/{name}").unlock()
    config.update_from_flattened_dict(SMALL | {key.replace("__", "."): value for key, value in settings.items()})
    config.data.path = str(path)
    return apply_overrides(config, list(overrides))


def lists(**settings):
    return small_config("lra_listops.py:tiny", **LISTS | settings)


@pytest.mark.slow
def test_lists_train_score_and_predict(tmp_path, capsys):
    config = lists()
    test = train(make_task(config), config, str(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows[:2]] == [1, 2] and 1.5 < rows[1]["train/loss"] < 4
    assert test["test/error_rate"] == pytest.approx(1 - test["test/accuracy"])
    capsys.readouterr()
    assert cli.run(evaluate.main, [f"--workdir={tmp_path}", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["error_rate"] == pytest.approx(test["test/error_rate"]) and scores["loss"] > 0
    assert cli.run(predict.main, [f"--workdir={tmp_path}", "[MAX 2 9 [MIN 4 7 ] 0 ]", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(found["probabilities"].values()) == pytest.approx(1) and found["class"] in map(str, range(10))
    assert found["probabilities"][found["class"]] == max(found["probabilities"].values()) and not found["cut"]
    (tmp_path / "list.txt").write_text("( ( ( ( [MAX 2 ) 9 ) ( ( ( [MIN 4 ) 7 ) ] ) ) 0 ) ] )\n")
    assert cli.run(predict.main, [f"--workdir={tmp_path}", str(tmp_path / "list.txt")]) == 0
    assert capsys.readouterr().out.strip() == found["text"]  # the same list in brackets
    for source, message in (
        ("[AVG 1 2 ]", "the text: '[AVG' is no part of ListOps"),
        ("( )", "the text: the document is empty"),
        (str(tmp_path / "no.txt"), "no.txt: there is no such file"),
    ):
        assert cli.run(predict.main, [f"--workdir={tmp_path}", source]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "write", "settings", "source"),
    [
        ("lra_text.py:tiny", None, {"data.length": 32}, "He was born in 1912."),
        ("lra_retrieval.py:tiny", None, {"data.length": 32}, "one text\tanother text"),
        ("lra_image.py:tiny", records.write_cifar, {"data.length": 48, "model.axial.dims": (16,)}, None),
        ("lra_pathfinder.py:tiny", records.write_pathfinder, {"data.length": 48}, None),
        ("longformer_hyperpartisan.py:tiny", None, PEOPLE, "He was born."),
        ("longformer_hyperpartisan.py:tiny", records.write_hyperpartisan, HYPERPARTISAN, "A fine article."),
    ],
)
def test_tiny_presets_train_score_and_predict(name, write, settings, source, tmp_path, capsys):
    """On what ships with the package, or, where nothing that does is of the kind, on records in the official format."""
    config = small_config(name, write(tmp_path) if write else "", **settings)
    run = tmp_path / "run"
    test = train(make_task(config), config, str(run))
    assert 0 <= test["test/error_rate"] <= 1 and 0 <= test["test/f1"] <= 1
    if source is None:
        source = tmp_path / "picture.png"
        source.write_bytes(records.png(np.zeros((32, 32), np.uint8)))
    capsys.readouterr()
    assert cli.run(predict.main, [f"--workdir={run}", str(source)]) == 0
    text, probability = capsys.readouterr().out.split("(")
    assert text.strip() in make_task(config).classes and probability.strip().endswith("%)")


@pytest.mark.slow
@pytest.mark.parametrize("mixer", ["full", "longformer", "performer"])
def test_what_it_is_shown_often_it_learns(mixer, tmp_path):
    """Sixteen lists are known by heart after some hundred steps: the arena's chance scores at small budgets are not for
    want of a gradient on the way from the class to the bytes."""
    config = lists(mixer=mixer, batch_size=16, steps=150, log_every=50, eval__test=False, model__d_model=32)
    config.optimizer.update(learning_rate=3e-3, warmup=10)
    train(make_task(config), config, str(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["train/loss"] < 0.2 < 1 < rows[0]["train/loss"]


def test_scores_are_those_of_their_definitions():
    task = make_task(lists())
    params = jax.jit(task.init)(jax.random.key(0))
    said, true, nats = [], [], []
    for batch in scoring_examples(task.examples("test"), batch_size=4):
        logits = np.asarray(task.scores(params, batch), np.float64)
        real = batch["example_weights"] > 0
        log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        nats += list(-log_p[np.arange(4), batch["labels"]][real])
        said, true = said + list(logits.argmax(axis=-1)[real]), true + list(batch["labels"][real])
    said, true = np.array(said), np.array(true)
    assert len(true) == 9
    f1 = []
    for c in range(10):
        hits, n = np.sum((said == c) & (true == c)), np.sum(said == c) + np.sum(true == c)
        f1.append(2 * hits / n if n else 0.0)
    scores = task.evaluate(params, "test", batch_size=8)
    expected = {"loss": np.mean(nats), "error_rate": np.mean(said != true), "f1": np.mean(f1)}
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_f1_of_two_classes_is_that_of_the_second():
    config = small_config("longformer_hyperpartisan.py:tiny", **HYPERPARTISAN)
    shares = {"nats": 0.5, "error": 0.2, "true_1": 0.4, "said_1": 0.3, "hit_1": 0.25}
    assert make_task(config).report(shares)["f1"] == pytest.approx(2 * 0.25 / 0.7)


def test_the_mixer_is_chosen_on_the_command_line():
    for name in ("performer", "linformer", "fixed"):
        task = make_task(lists_with(name))
        assert type(task.model.encoder.stack.period.mixers()[0]).__name__.lower().startswith(name)
    with pytest.raises(UserError, match=r"config.mixer='axial'; one of big_bird, fixed, full, linformer"):
        make_task(lists_with("axial"))


def lists_with(mixer):
    return small_config("lra_listops.py:tiny", overrides=[("mixer", mixer), ("model.performer.chunk_size", "32")])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(data__name="enwik8"), "config.data.name='enwik8'; one of listops, imdb"),
        (dict(mixer="linformer", data__length=500), "config.data.length=500 must not exceed the 120 positions"),
        (dict(eval__metric="accuracy"), "config.eval.metric='accuracy'; 'error_rate' or 'loss'"),
        (dict(options__pooling="max"), "options: pooling='max'"),
        (dict(dtype="float8"), "config.dtype='float8'"),
    ],
)
def test_mistakes_are_found_before_any_work(settings, message):
    with pytest.raises(UserError, match=message):
        make_task(small_config("lra_listops.py:tiny", **settings))


def masked_config(**settings):
    sizes = {"data.length": 32, "eval.context": 32, "eval.stride": 16, "eval.limit": 300}
    sizes |= {key: PEOPLE[key] for key in ("model.longformer.window", "data.vocabulary")}
    return small_config("longformer_hyperpartisan.py:tiny_pretrain", **sizes | settings)


@pytest.mark.slow
def test_training_starts_from_the_encoder_of_a_masked_language_model(tmp_path):
    masked, run = masked_config(), open_workdir(str(tmp_path / "masked"))
    save_config(run, masked)
    state = jax.jit(lambda key: initial_state(make_task(masked), make_optimizer(masked), masked, key))(
        jax.random.key(5)
    )
    with Checkpoints(run, keep=1) as checkpoints:
        checkpoints.save(1, state, {"best": None})
    folder = records.write_hyperpartisan(tmp_path)

    def task(**settings):
        options = HYPERPARTISAN | {"options.init_from": str(run)}
        return make_task(small_config("longformer_hyperpartisan.py:tiny", folder, **options | settings))

    mesh = make_mesh(dict(data=-1, fsdp=1, tensor=1, sequence=1), jax.devices())
    begin = jax.jit(task().init, out_shardings=NamedSharding(mesh, PartitionSpec()))
    params = begin(jax.random.key(0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params["encoder"]):
        there = functools.reduce(lambda tree, part: tree[part.key], path, state.params)
        np.testing.assert_array_equal(leaf, there)
    assert {"hidden_0", "out"} < params.keys()
    for settings, message in (
        (dict(data__vocabulary="hashed_words:65"), "vocabulary 'hashed_words:64'"),
        (dict(model__d_ff=32), r"has shape \(1, 24\) at stack/.*, where .* shape \(1, 32\)"),
        (dict(options__init_from=str(tmp_path / "nothing")), "holds no run"),
    ):
        with pytest.raises(UserError, match=message):
            task(**settings).train_reader(0, 1)
    save_config(open_workdir(str(tmp_path / "other")), lists())
    with pytest.raises(UserError, match="is a run of classification; one of masked_language_modelling"):
        task(options__init_from=str(tmp_path / "other")).train_reader(0, 1)
