"""Forecasting on Seattle's weather: training, scores and predictions from the commands, and what they refuse."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax import cli, evaluate, predict
from effjax.data.series import load_series
from effjax.errors import UserError
from effjax.ops.quantile_loss import quantile_loss
from effjax.tasks import make_task
from effjax.training.config import load_config
from effjax.training.loop import train

SMALL = {
    "steps": 3,
    "log_every": 1,
    "batch_size": 8,
    "model.d_model": 16,
    "model.d_ff": 32,
    "model.n_heads": 2,
    "model.head_dim": 8,
    "model.axial.dims": (16,),
    "options.samples": 20,
    "options.test_steps": 14,
    "options.valid_steps": 14,
    "eval.every": 3,
    "eval.batch_size": 8,
    "checkpoint.every": 0,
}


def small_config(**settings):
    config = load_config("configs/logsparse_forecasting.py:tiny")
    config.update_from_flattened_dict(SMALL | {key.replace("__", "."): value for key, value in settings.items()})
    return config


@functools.cache
def small_task(**settings):
    task = make_task(small_config(**settings))
    return task, jax.jit(task.init)(jax.random.key(0))


@functools.cache
def forecasting(task):
    return jax.jit(task.forecast)


def write_csv(path, rows=40, names=("temp_max", "elsewhere")):
    series = load_series("seattle_weather")
    lines = [",".join(("date", *names))]
    for i in range(rows):
        day = str(series.times[0][i].astype("M8[D]"))
        lines.append(",".join([day, *(f"{series.values[1][i]:g}" for _ in names)]))
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lambda text: "\n".join(text.splitlines()[:28]), "series 'temp_max' has 27 values; 28 are needed"),
        (lambda text: text.replace("12.8,", "nan,", 1), "series 'temp_max' is nan in row 1"),
        (lambda text: text.replace("-01-05,", "-01-06,"), "row 5 .* does not follow row 4"),
        (
            lambda text: "date,a\n2012-01-01T00:00,1\n2012-01-01T01:00,2\n",
            "an hour apart, those of .* are a day",
        ),
    ],
)
def test_files_that_cannot_be_forecast_are_named(text, message, tmp_path):
    task, params = small_task()
    source = write_csv(tmp_path / "weather.csv")
    (tmp_path / "weather.csv").write_text(text((tmp_path / "weather.csv").read_text()))
    with pytest.raises(UserError, match=f"weather.csv: .*{message}"):
        task.predict(params, source, key=jax.random.key(0))


def test_scores_are_those_of_forecasts_that_see_nothing_of_what_comes():
    task, params = small_task(options__scaling="mean_abs")
    scores = task.evaluate(params, "test")
    windows = task.examples("test")
    assert len(windows) == 2 * 4  # two weeks, four series
    batch = windows.batch(np.arange(8), None)
    values = batch["inputs"][:, 28:].copy()
    batch["inputs"][:, 28:] = np.nan
    keys = jax.vmap(lambda window: jax.random.fold_in(jax.random.key(task.config.seed), window))(jnp.arange(8))
    samples = forecasting(task)(params, batch, keys)
    for rho in (0.5, 0.9):
        losses = quantile_loss(jnp.asarray(values), jnp.quantile(samples, rho, axis=1), rho=rho)
        assert scores[f"rho_{rho}"] == pytest.approx(float(2 * losses.sum() / np.abs(values).sum()), rel=1e-4)


def test_loss_is_the_mean_over_the_window_and_in_scores_over_the_horizon():
    task, params = small_task()
    batch = task.examples("valid").batch(np.arange(4), None)
    values, loc, scale = task.scaled(jax.tree.map(jnp.asarray, batch))
    known = batch["inputs"][:, :28]
    np.testing.assert_allclose(loc[:, 0], known.mean(1), rtol=1e-4)
    np.testing.assert_allclose(scale[:, 0], known.std(1), rtol=1e-4)

    @jax.jit
    def losses(params, batch, key):
        inputs = values, batch["covariates"], batch["series"]
        nats = task.model.apply({"params": params}, *inputs, method="nats")
        return nats, task.loss(params, batch), task.loss(params, batch, key=key, deterministic=False)

    nats, (loss, (metrics, carry)), (train_loss, _) = losses(params, batch, jax.random.key(0))
    assert float(loss) == pytest.approx(float(nats[:, 28:].mean()), rel=1e-4) and carry == ()
    assert float(metrics["nats"][1]) == 4 * 7
    assert float(train_loss) == pytest.approx(float(nats.mean()), rel=1e-4)
    assert task.report({"nats": 2.0, "rho_0.5": 1.0}) == {"loss": 2.0, "rho_0.5": 1.0}


@pytest.mark.parametrize("distribution", ["gaussian", pytest.param("student_t", marks=pytest.mark.slow)])
def test_forecasts_follow_the_scale_of_a_series(distribution):
    task, params = small_task(options__scaling="mean_abs", model__distribution=distribution)
    batch = task.examples("test").batch(np.arange(8), None)
    keys = jax.random.split(jax.random.key(0), 8)
    forecast = forecasting(task)
    plain = forecast(params, batch, keys)
    thousand = forecast(params, batch | {"inputs": 1000 * batch["inputs"]}, keys)
    np.testing.assert_allclose(thousand, 1000 * plain, rtol=1e-3, atol=1e-1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(options__horizon=35), "config.options.horizon=35 must be less than config.data.length=35"),
        (dict(options__samples=0), "config.options.samples=0"),
        (dict(options__scaling="max"), "config.options.scaling='max'"),
        (dict(options__sampling="all"), "config.options.sampling='all'"),
        (dict(options__unknown_rate=2.0), "unknown_rate=2.0"),
        (dict(options__covariates=("moon",)), "no covariate 'moon'"),
        (dict(data__length=40), "config.data.length=40 must not exceed the 35 positions"),
        (dict(eval__metric="bits_per_byte"), "one of loss, rho_0.5, rho_0.9"),
        (dict(sample__length=9), "config.sample.length=9"),
        (dict(model__distribution="poisson"), "model.distribution='poisson'"),
        (dict(dtype="int8"), "config.dtype='int8'"),
    ],
)
def test_mistakes_are_found_before_any_work(settings, message):
    with pytest.raises(UserError, match=message):
        make_task(small_config(**settings))


def test_data_that_do_not_fit_the_configuration_are_named(tmp_path):
    with pytest.raises(UserError, match=r"config.model.n_series=9; .*seattle_weather.csv.xz holds 4 series"):
        make_task(small_config(model__n_series=9)).examples("train")
    source = write_csv(tmp_path / "weather.csv", rows=50)
    own = dict(data__name="series_csv", data__path=source, model__n_series=2)
    with pytest.raises(UserError, match=r"weather.csv: series 'temp_max' has 22 values before the last 28, .* 28 \+ 7"):
        make_task(small_config(**own)).examples("train")


@pytest.mark.slow
def test_learns_more_than_last_week_tells_scores_it_and_forecasts_a_file(tmp_path, capsys):
    config = small_config(steps=150, options__sampling="weighted", log_every=50, eval__every=0)
    scores = train(make_task(config), config, str(tmp_path / "run"))
    series = load_series("seattle_weather")
    error = sum(np.abs(own[-14:] - own[-21:-7]).sum() for own in series.values)
    assert scores["test/rho_0.5"] < error / sum(np.abs(own[-14:]).sum() for own in series.values)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[2]["train/loss"] < rows[0]["train/loss"] and 0 < rows[2]["valid/rho_0.9"] < 3
    capsys.readouterr()
    assert cli.run(evaluate.main, [f"--workdir={tmp_path}/run", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["rho_0.9"] == pytest.approx(scores["test/rho_0.9"], rel=1e-5)

    source = write_csv(tmp_path / "weather.csv")
    assert cli.run(predict.main, [f"--workdir={tmp_path}/run", source, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["times"][0] == "2012-02-10T00:00" and len(result["times"]) == 7
    known, unknown = (result["series"][name]["quantiles"] for name in ("temp_max", "elsewhere"))
    assert all(low < middle < high for low, middle, high in zip(known["0.1"], known["0.5"], known["0.9"]))
    assert known["0.5"] != unknown["0.5"]  # the same values under a name that was not trained on
    assert cli.run(predict.main, [f"--workdir={tmp_path}/run", source]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 15 and lines[1].split()[:2] == ["temp_max", "2012-02-10T00:00"]
    assert float(lines[1].split()[3]) == pytest.approx(known["0.5"][0], rel=1e-4)


@pytest.mark.slow
def test_students_distribution_is_learned_too(tmp_path):
    """Its loss on the days to forecast falls, and draws of heavy tails are still quantiles in order."""
    config = small_config(steps=60, log_every=20, eval__every=20, eval__test=False, model__distribution="student_t")
    train(make_task(config), config, str(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [row["valid/loss"] for row in rows if "valid/loss" in row]
    assert losses[-1] < losses[0] and 0 < rows[-1]["valid/rho_0.9"] < 3


@pytest.mark.parametrize("preset", ["electricity", "traffic_7_days", "etth2", "exchange_rate", "m4_hourly"])
def test_every_preset_is_a_task(preset):
    config = load_config(f"configs/logsparse_forecasting.py:{preset}")
    task = make_task(config)
    assert task.context == {"exchange_rate": 60}.get(preset, 168)
    shapes = task.abstract_params
    assert shapes["identity"]["embedding"].shape == (1 + config.model.n_series, 20)
