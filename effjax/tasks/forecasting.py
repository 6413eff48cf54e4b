"""Probabilistic forecasting of series, measured by rho-risks of sampled trajectories."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from effjax.data.archives import read_archive
from effjax.data.calendar import check_covariates, times_after
from effjax.data.examples import ExampleReader
from effjax.data.forecast_windows import (
    WeightedReader,
    Windows,
    scoring_windows,
    training_windows,
    window_weights,
)
from effjax.data.series import SeriesSet, known_series, load_series, read_csv, series_set
from effjax.errors import UserError
from effjax.models.forecaster import make_forecaster, sample_trajectories
from effjax.models.initial import redraw
from effjax.ops.quantile_loss import quantile_loss
from effjax.ops.series_scale import SCALINGS, series_scale
from effjax.tasks.example_task import ExampleTask
from effjax.tasks.language_modelling import DTYPES

RISKS = (0.5, 0.9)
QUANTILES = (0.1, 0.5, 0.9)  # of a prediction


def forecasting_options() -> ConfigDict:
    """Every key of the task's `options` section, with its default: rolling days of electricity."""
    return ConfigDict(
        dict(
            horizon=24,  # steps to forecast; data.length less that many are known
            test_steps=168,  # the end of every series
            valid_steps=168,  # those before the test steps; what is before them is trained on
            rolling=24,  # steps from one forecast to the next in scoring
            covariates=("hour", "weekday", "month", "age"),  # see effjax.data.calendar
            scaling="mean_plus_one",  # see effjax.ops.series_scale
            sampling="weighted",  # training windows by their scale, or "uniform": each once an epoch
            unknown_rate=0.05,  # share of training windows whose series is not told
            loss_over="window",  # "window" or "horizon"
            samples=200,  # trajectories of a forecast
            skip_short=False,  # leave out series that are too short to train on (and say so) rather than stop
        )
    )


class Forecasting(ExampleTask):
    """Forecasts `options.horizon` values of each series from the `data.length - options.horizon` before them.

    Loss: mean `-log p(z_t | z_<t)` of scaled values, in nats. Score: rho-risks of the quantiles of trajectories that
    are fed with their own draws.

    Args:
      config: a whole configuration; this task reads `data`, `model`, `options`, `eval`, `batch_size`, `dtype`, `seed`.

    Raises:
      UserError: a setting that does not exist or does not fit.
    """

    def __init__(self, config):
        super().__init__(config)
        self._examples = {}
        options, length = config.options, config.data.length
        if config.dtype not in DTYPES:
            raise UserError(f"config.dtype={config.dtype!r}; one of {', '.join(DTYPES)} is allowed")
        for name in ("horizon", "test_steps", "valid_steps", "rolling", "samples"):
            if options[name] < 1:
                raise UserError(f"config.options.{name}={options[name]}; 1 or more is allowed")
        if options.horizon >= length:
            raise UserError(
                f"config.options.horizon={options.horizon} must be less than config.data.length={length}: what is left "
                "of a window is what forecasts are conditioned on"
            )
        for name, allowed in (
            ("scaling", SCALINGS),
            ("sampling", ("weighted", "uniform")),
            ("loss_over", ("window", "horizon")),
        ):
            if options[name] not in allowed:
                raise UserError(f"config.options.{name}={options[name]!r}; one of {', '.join(allowed)} is allowed")
        if not 0 <= options.unknown_rate <= 1:
            raise UserError(f"config.options.unknown_rate={options.unknown_rate}; 0 to 1 is allowed")
        check_covariates(tuple(options.covariates))
        self.model = make_forecaster(config.model, dtype=DTYPES[config.dtype])
        if self.model.max_length is not None and length > self.model.max_length:
            raise UserError(
                f"config.data.length={length} must not exceed the {self.model.max_length} positions of "
                "config.model.axial.shape"
            )
        scores = ("loss", *(f"rho_{rho}" for rho in RISKS))
        if config.eval.metric not in scores:
            raise UserError(f"config.eval.metric={config.eval.metric!r}; one of {', '.join(scores)} is allowed")
        if config.sample.length:
            raise UserError(f"config.sample.length={config.sample.length}: a forecaster writes no text; 0 is allowed")

    @property
    def context(self) -> int:
        """Values that a forecast is conditioned on."""
        return self.config.data.length - self.config.options.horizon

    @functools.cached_property
    def series(self) -> SeriesSet:
        """The data; read once."""
        data, known = self.config.data, self.config.model.n_series
        series = load_series(data.name, path=data.path or None)
        if self.model.series_dim and len(series) != known:
            raise UserError(f"config.model.n_series={known}; {series.origin} holds {len(series)} series")
        return series

    def examples(self, split: str) -> Windows:
        if split not in self._examples:
            options = self.config.options
            settings = dict(context=self.context, horizon=options.horizon, covariates=tuple(options.covariates))
            if split == "train":
                settings |= dict(unknown_rate=options.unknown_rate, skip_short=options.skip_short)
                stride = self.config.data.stride or self.config.data.length
                held_out = options.valid_steps + options.test_steps
                windows = training_windows(self.series, stride=stride, held_out=held_out, **settings)
            else:
                test = split == "test"
                stretch = dict(steps=options.test_steps if test else options.valid_steps)
                stretch |= dict(after=0 if test else options.test_steps, stride=options.rolling)
                windows = scoring_windows(self.series, **stretch, **settings)
            self._examples[split] = windows
        return self._examples[split]

    def train_reader(self, process_index: int, process_count: int) -> ExampleReader:
        """Windows drawn by their scale, or each once an epoch."""
        if self.config.options.sampling == "uniform":
            return super().train_reader(process_index, process_count)
        windows = self.examples("train")
        place = dict(process_index=process_index, process_count=process_count)
        settings = dict(batch_size=self.config.batch_size, seed=self.config.seed) | place
        return WeightedReader(windows, weights=window_weights(windows, self.context), **settings)

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a global batch."""
        rows, length = self.config.batch_size, self.config.data.length
        array = jax.ShapeDtypeStruct
        return {
            "inputs": array((rows, length), jnp.float32),
            "padding_mask": array((rows, length), jnp.bool_),
            "covariates": array((rows, length, len(self.config.options.covariates)), jnp.float32),
            "series": array((rows,), jnp.int32),
            "window": array((rows,), jnp.int32),
        }

    def init(self, key: jax.Array):
        """Parameters, a nested dict of float32 arrays."""
        covariates = jnp.zeros((1, 1, len(self.config.options.covariates)))
        params = self.model.init(key, jnp.zeros((1, 1)), covariates, jnp.zeros((1,), jnp.int32))["params"]
        return redraw(params, tuple(self.config.model.init), jax.random.fold_in(key, 1))

    def scaled(self, batch):
        """The values of windows as the model sees them, and `(loc, scale)` of what is known of each."""
        known = slice(None, self.context)
        options = self.config.options
        loc, scale = series_scale(batch["inputs"][:, known], batch["padding_mask"][:, known], scaling=options.scaling)
        return jnp.where(batch["padding_mask"], (batch["inputs"] - loc) / scale, 0.0), loc, scale

    def loss(self, params, batch, carry=(), *, key=None, deterministic: bool = True):
        """Mean nats per value of a batch; in scoring of the horizon's values, in training as `options.loss_over` says.

        Args:
          params: parameters.
          batch: what `effjax.data.forecast_windows.Windows` gives; in scoring also `example_weights` `[B]`.
          carry: `()`.
          key: PRNG key of dropout.
          deterministic: no dropout.
        """
        values, _, _ = self.scaled(batch)
        nats, sown = self.model.apply(
            {"params": params},
            values,
            batch["covariates"],
            batch["series"],
            padding_mask=batch["padding_mask"],
            deterministic=deterministic,
            rngs=None if key is None else {"dropout": key},
            mutable=["penalties"],
            method="nats",
        )
        weights = batch["padding_mask"].astype(jnp.float32)
        if deterministic or self.config.options.loss_over == "horizon":
            weights = weights.at[:, : self.context].set(0.0)
        if "example_weights" in batch:
            weights *= batch["example_weights"][:, None]
        total, count = jnp.sum(nats * weights), jnp.sum(weights)
        loss, metrics = total / jnp.maximum(count, 1.0), {"nats": (total, count)}
        if not deterministic:
            loss += self.model.penalty(params) + sum(jax.tree.leaves(sown))
            metrics |= {name: (value, 1.0) for name, value in self.model.metrics(params).items()}
        return loss, (metrics, carry)

    def report(self, metrics: dict[str, float], split: str = "train") -> dict[str, float]:
        """What is logged of mean metrics: the loss in nats per scaled value, and rho-risks in scores."""
        del split
        return {"loss" if name == "nats" else name: value for name, value in metrics.items()}

    def after_update(self, params, *, step: jax.Array, key: jax.Array):
        """Parameters after every layer's own rule."""
        return self.model.after_update(params, step=step, key=key)

    def generation_state(self, length: int):
        """What one trajectory keeps in memory."""
        return self.model.initial_state(1, self.model.dtype, max_length=length)

    def forecast(self, params, batch, keys) -> jax.Array:
        """Trajectories of the horizon, `[B, S, H]`, in the series' own unit; those values of the batch are not read."""
        known = {name: batch[name][:, : self.context] for name in ("inputs", "padding_mask")}
        values, loc, scale = self.scaled(known)
        samples = sample_trajectories(
            self.model,
            params,
            values,
            batch["covariates"],
            batch["series"],
            padding_mask=known["padding_mask"],
            n_samples=self.config.options.samples,
            keys=keys,
        )
        return loc[:, None] + scale[:, None] * samples

    @functools.cached_property
    def score(self):
        """Compiled: the nats of the horizon's values, each after the true ones before it, and the rho-risks of
        forecasts that see none of them. Draws depend on the window and `config.seed` alone."""

        def score(params, batch):
            metrics = self.loss(params, batch)[1][0]
            root = jax.random.key(self.config.seed)
            keys = jax.vmap(lambda window: jax.random.fold_in(root, window))(batch["window"])
            samples = self.forecast(params, batch, keys)
            values, weights = batch["inputs"][:, self.context :], batch["example_weights"][:, None]
            for rho in RISKS:
                losses = quantile_loss(values, jnp.quantile(samples, rho, axis=1), rho=rho)
                metrics[f"rho_{rho}"] = jnp.sum(2 * losses * weights), jnp.sum(jnp.abs(values) * weights)
            return metrics

        return jax.jit(score)

    def predict(self, params, source: str, *, key: jax.Array) -> dict[str, Any]:
        """Forecasts what follows the end of every series of a CSV file.

        Args:
          params: parameters.
          source: the file, see `effjax.data.series.read_csv`; columns that bear the name of a series that was trained
            on are told apart, others are forecast as series unknown.
          key: PRNG key of the draws.

        Returns:
          `times`; `series`, `{name: {"mean": […], "quantiles": {"0.1": […], …}}}`; `text`, a table of quantiles.

        Raises:
          UserError: a file that cannot be read, rows that are not a step of the training data apart, a series shorter
            than what forecasts are conditioned on.
        """
        horizon, covariates = self.config.options.horizon, tuple(self.config.options.covariates)
        data = self.config.data
        step, names = known_series(data.name, path=data.path or None)
        found = read_csv(read_archive(source), source, name="input", step=step)
        if found.step != step:
            apart = [("an " if name == "hour" else "a ") + name.replace("_", " ") for name in (found.step, step)]
            raise UserError(f"{source}: rows are {apart[0]} apart, those of {data.name} are {apart[1]}")
        n = len(found.times[0])
        if n < self.context:
            raise UserError(
                f"{source}: series {found.names[0]!r} has {n} values; {self.context} are needed to forecast from"
            )
        future = times_after(found.times[0][-1], found.step, horizon)
        times = np.concatenate([found.times[0], future])
        values = [np.concatenate([own, np.zeros(horizon, np.float32)]) for own in found.values]
        longer = series_set("input", source, found.step, found.names, values, [times] * len(found))
        starts = [n - self.context] * len(found)
        windows = Windows(longer, range(len(found)), starts, length=self.config.data.length, covariates=covariates)
        batch = windows.batch(np.arange(len(found)), None)
        known = {name: 1 + number for number, name in enumerate(names)}
        batch["series"] = np.array([known.get(name, 0) for name in found.names], np.int32)
        samples = np.asarray(jax.jit(self.forecast)(params, batch, jax.random.split(key, len(found))))
        series = {}
        for name, own in zip(found.names, samples):
            quantiles = {str(rho): np.quantile(own, rho, axis=0).tolist() for rho in QUANTILES}
            series[name] = {"mean": own.mean(0).tolist(), "quantiles": quantiles}
        return {"times": [str(time) for time in future], "series": series, "text": table(future, series)}


def table(times, series) -> str:
    """Quantiles of forecasts, a line for each series and time."""
    width = max(map(len, [*series, "series"]))
    lines = [f"{'series':<{width}}  {'time':<16}" + "".join(f"{rho:>14}" for rho in QUANTILES)]
    for name, own in series.items():
        for i, time in enumerate(times):
            numbers = "".join(f"{own['quantiles'][str(rho)][i]:>14.6g}" for rho in QUANTILES)
            lines.append(f"{name:<{width}}  {time!s:<16}{numbers}")
    return "\n".join(lines)
