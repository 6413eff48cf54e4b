"""Speech recognition: tiny presets on recordings in the package, statistics of the batch, error rates, mistakes."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax import cli, evaluate, predict
from effjax.data.spoken_digits import SAMPLE
from effjax.errors import UserError
from effjax.tasks import make_task
from effjax.training.config import load_config
from effjax.training.loop import train
from effjax.training.optimizers import make_optimizer
from effjax.training.state import initial_state
from effjax.training.step import make_train_step
from tests.data.test_speech_corpora import wav, write_an4, write_librispeech

SOUND = str(SAMPLE / "6_yweweler_3.wav")


def small_config(name="digits", **settings):
    config = load_config(f"configs/conformer_{name}.py:tiny")
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in settings.items()})
    return config


@pytest.mark.slow
def test_trains_evaluates_and_predicts_real_recordings(tmp_path, capsys):
    config = small_config(steps=2, log_every=1, eval__every=2, checkpoint__every=2)
    train(make_task(config), config, str(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2] and 0 < rows[1]["train/loss"] < 100
    capsys.readouterr()
    assert cli.run(evaluate.main, [f"--workdir={tmp_path}", "--split=valid", "--limit=4", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    for name in ("loss", "word_error_rate"):  # of the parameters and the statistics of the last step
        assert scores[name] == pytest.approx(rows[1][f"valid/{name}"], rel=1e-4)
    assert scores["utterances"] == 4
    assert cli.run(predict.main, [f"--workdir={tmp_path}", SOUND, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["seconds"] == pytest.approx(0.143, abs=1e-3) and isinstance(result["text"], str)
    assert cli.run(predict.main, [f"--workdir={tmp_path}", SOUND]) == 0
    assert capsys.readouterr().out == result["text"] + "\n"
    bad = {"rate.wav": wav(rate=16000), "cut.wav": wav()[:700], "short.wav": wav(100), "no.wav": b"no"}
    words = {"rate.wav": "16000 samples a second", "cut.wav": "cut.wav", "short.wav": "100 samples; at least 200"}
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        assert cli.run(predict.main, [f"--workdir={tmp_path}", str(tmp_path / name)]) == 1
        assert words.get(name, "no sound file") in capsys.readouterr().err
    assert cli.run(predict.main, [f"--workdir={tmp_path}", str(tmp_path / "none.wav")]) == 1
    assert "none.wav cannot be read" in capsys.readouterr().err


@functools.cache
def small_task(**settings):
    task = make_task(small_config(**settings))
    return task, jax.jit(task.init)(jax.random.key(0))


def stepped(accumulate):
    """A step over eight strings: the state before and after it, and the statistics that the loss hands on."""
    config = small_config(
        batch_size=8,
        accumulate=accumulate,
        model__dropout_rate=0.0,
        options__augment__n_time_masks=0,
        options__augment__n_frequency_masks=0,
    )
    task, optimizer = make_task(config), make_optimizer(config)
    batch = jax.tree.map(jnp.asarray, task.examples("train").batch(np.arange(8), np.random.default_rng(0)))

    @jax.jit
    def run(key):
        state = initial_state(task, optimizer, config, key)
        pieces = [jax.tree.map(lambda x, i=i: x[i::accumulate], batch) for i in range(accumulate)]
        losses = [task.loss(state.params, piece, key=key, deterministic=False) for piece in pieces]
        return state, make_train_step(task, optimizer, config)(state, batch), [carry for _, (_, carry) in losses]

    before, (after, metrics), carries = run(jax.random.key(0))
    assert float(metrics["nats"][1]) == batch["label_lengths"].sum()
    return before, after, carries


@pytest.mark.slow
def test_a_step_leaves_the_batchs_statistics_among_the_parameters(accumulate=2):
    """Those of an accumulated step are the mean of its pieces'."""
    before, after, carries = stepped(accumulate)
    assert len(carries) == accumulate
    old, new = (state.params["batch_stats"] for state in (before, after))
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), old, new)
    assert all(move > 0 for move in jax.tree.leaves(moved))
    expected = jax.tree.map(lambda *leaves: sum(leaves) / accumulate, *carries)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), new, expected)


def four_strings(task):
    return next(iter(task.scoring_batches("test", limit=4, batch_size=4)))


@pytest.mark.slow
def test_error_rates_are_those_of_the_whole_set():
    """Edits over words of all utterances together, against edits counted here."""
    task, params = small_task()
    scores = task.evaluate(params, "test", limit=7, batch_size=4)
    edits = words = 0
    for batch in task.scoring_batches("test", limit=7, batch_size=4):
        _, symbols, counts, *_ = task.score(params, batch)
        for row in np.flatnonzero(batch["example_weights"]):
            spoken = batch["labels"][row, : batch["label_lengths"][row]]
            edits += distance(spoken, np.asarray(symbols[row, : counts[row]]))
            words += len(spoken)
    assert scores["word_error_rate"] == pytest.approx(edits / words)
    assert (scores["utterances"], scores["words"]) == (7, words)


def distance(spoken, heard):
    table = np.arange(len(heard) + 1)
    for symbol in spoken:
        new = [table[0] + 1]
        for j, other in enumerate(heard):
            new.append(min(table[j] + (symbol != other), table[j + 1] + 1, new[-1] + 1))
        table = np.array(new)
    return table[-1]


@pytest.mark.slow
def test_an_utterance_without_an_alignment_is_counted_and_left_out():
    task, params = small_task()
    batch = dict(four_strings(task))
    short = batch | {"input_lengths": batch["input_lengths"].copy(), "label_lengths": batch["label_lengths"].copy()}
    short["input_lengths"][1], short["label_lengths"][1] = 200, 3  # one frame
    without = batch | {"example_weights": np.array([1, 0, 1, 1], np.float32)}
    (metrics, *_), (expected, *_) = task.score(params, short), task.score(params, without)
    assert float(metrics["without_alignment"][0]) == 1 and float(expected["without_alignment"][0]) == 0
    assert [float(x) for x in metrics["nats"]] == pytest.approx([float(x) for x in expected["nats"]], rel=1e-4)


@pytest.mark.slow
def test_a_transducer_trains_and_transcribes_with_a_beam(tmp_path, capsys):
    settings = dict(steps=2, log_every=1, eval__every=2, options__loss="transducer", options__beam=2, eval__limit=2)
    config = small_config(**settings)
    train(make_task(config), config, str(tmp_path))
    capsys.readouterr()
    assert cli.run(predict.main, [f"--workdir={tmp_path}", SOUND, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    scores = [found["log_probability"] for found in result["alternatives"]]
    assert result["text"] == result["alternatives"][0]["text"] and scores == sorted(scores, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["an4", "librispeech"])
def test_tiny_presets_train_on_records_in_the_official_form(name, tmp_path, capsys):
    data, workdir = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    if name == "an4":
        write_an4(data)
        source = data / "an4/feat/an4_clstk/zz/a0-zz-b.mfc"
    else:
        write_librispeech(data)
        source = data / "test-clean/12/34/12-34-0000.flac"
    config = small_config(name, data__path=str(data))
    if name == "librispeech":
        config.options.length = 1600
    else:
        config.options.length = 64
    train(make_task(config), config, str(workdir))
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 2 and rows[-1]["valid/utterances"] == 2
    capsys.readouterr()
    assert cli.run(predict.main, [f"--workdir={workdir}", str(source)]) == 0


@pytest.mark.parametrize("name", ["an4.py", "an4.py:sound", "digits.py:transducer", "digits.py:streaming"])
def test_every_preset_is_a_task(name):
    config = load_config(f"configs/conformer_{name}")
    params = make_task(config).abstract_params
    assert {"params", "batch_stats"} == params.keys()
    assert (config.model.chunk_size > 0) == name.endswith("streaming")


def test_what_is_too_long_to_train_on_is_scored_all_the_same(tmp_path, capsys):
    write_librispeech(tmp_path)
    settings = dict(data__path=str(tmp_path), options__length=800, options__fill=False)
    task = make_task(small_config("librispeech", options__scored_length=1600, **settings))
    assert (len(task.examples("train")), len(task.examples("test"))) == (1, 2)
    assert "1 of 2 utterances are longer" in capsys.readouterr().out
    (batch,) = task.scoring_batches("test", batch_size=2)
    assert batch["inputs"].shape == (2, 1600) and batch["example_weights"].tolist() == [1, 1]
    with pytest.raises(UserError, match=r"12-34-0001.*length=800.*scored_length"):
        make_task(small_config("librispeech", **settings)).examples("test")
    digits = make_task(small_config(options__scored_length=9000)).data
    assert (digits.examples("train").length, digits.examples("test").length) == (small_config().options.length, 9000)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("digits", dict(options__loss="hmm"), "config.options.loss='hmm'; ctc or transducer"),
        ("digits", dict(data__name="digits"), "config.data.name='digits'"),
        ("digits", dict(options__sample_rate=16000), "config.options.sample_rate=16000"),
        ("digits", dict(options__units=("A", "B")), "config.options.units="),
        ("digits", dict(options__beam=-1), "beam=-1"),
        ("digits", dict(eval__metric="bits_per_byte"), "config.eval.metric='bits_per_byte'"),
        ("digits", dict(model__n_heads=3), "n_heads=3"),
        ("digits", dict(dtype="float16"), "config.dtype='float16'"),
        ("an4", dict(options__front_end="log_mel"), "config.options.front_end='log_mel'; an4_mfcc needs 'features'"),
    ],
)
def test_mistakes_are_found_before_any_work(name, settings, words):
    settings = {key: value for key, value in settings.items()}
    config = small_config(name)
    with config.ignore_type():
        config.update_from_flattened_dict({key.replace("__", "."): value for key, value in settings.items()})
    with pytest.raises(UserError, match=words):
        make_task(config)
