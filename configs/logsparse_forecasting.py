"""LogSparse Transformer with convolutional self-attention for probabilistic forecasts (Li et al. 2019, 1907.00235).

Presets, `--config=configs/logsparse_forecasting.py:PRESET`, by data set and protocol:

- electricity, traffic: hourly, 168 hours known, 24 forecast, 7 days rolling. Paper (rho-0.5 / rho-0.9 risk):
  electricity .059 / .034, traffic .122 / .081. Not trained here yet.
- electricity_7_days, traffic_7_days: 168 hours known, 168 forecast at once. Paper: .070 / .044, .139 / .094. Not run.
- etth1, etth2: 168 hours known, 24 forecast, every fourth day of the four test months; no figure of the paper.
- exchange_rate: 60 working days known, 30 forecast, 5 times rolling; no figure of the paper.
- m4_hourly: 168 hours known, 48 forecast, once. Paper: .067 / .025.
- tiny: four years of Seattle's weather, which ship with effjax; 28 days known, 7 forecast.

      python -m effjax.train --config=configs/logsparse_forecasting.py:tiny --workdir=runs/weather
      python -m effjax.predict --workdir=runs/weather weather.csv

The scores of small models on etth1, exchange_rate and m4_hourly are in experiments/forecasting.

The paper gives 3 layers, 8 heads, identities and positions of width 20, dropout 0.1 and batches of 64; from the public
adaptation of its code: each head as wide as the model, post-norm, ReLU, feed-forward networks 4 times as wide. Ours:
one linear map takes the value before, covariates and identity to the model's width, and learned positions are added to
it, where the paper sets them side by side; queries are scaled; width 48. `--config.model.log_sparse.qk_kernel=1` (2, 3,
6, 9) is the convolution, `--config.model.log_sparse.restart` the restarts, `local` about log2 of the length; any other
causal mixer by `get_config("etth1", mixer="full")`.
"""

from effjax.errors import UserError
from effjax.models.build import DECODER_SHARDING
from effjax.models.forecaster import forecaster_config
from effjax.tasks.forecasting import forecasting_options
from effjax.training.config import base_config

# known and forecast steps, steps of the test and of the valid stretch, from one forecast to the next, number of series.
PROTOCOLS = {
    "electricity": (168, 24, 168, 168, 24, 370),
    "electricity_7_days": (168, 168, 168, 168, 168, 370),
    "traffic": (168, 24, 168, 168, 24, 963),
    "traffic_7_days": (168, 168, 168, 168, 168, 963),
    "etth1": (168, 24, 2880, 2880, 96, 7),
    "etth2": (168, 24, 2880, 2880, 96, 7),
    "exchange_rate": (60, 30, 150, 150, 30, 8),
    "m4_hourly": (168, 48, 48, 48, 48, 414),
    "tiny": (28, 7, 56, 56, 7, 4),
}
DAILY = ("weekday", "day", "month", "age")


def get_config(preset: str = "electricity", mixer: str = "log_sparse"):
    if preset not in PROTOCOLS:
        raise UserError(f"preset={preset!r}; one of {', '.join(PROTOCOLS)} is allowed")
    known, horizon, test, valid, rolling, n_series = PROTOCOLS[preset]
    config = base_config()
    config.task = "forecasting"
    config.steps = 150_000
    config.batch_size = 64
    config.data.update(name=preset.removesuffix("_7_days"), length=known + horizon, stride=24)
    config.options = forecasting_options()
    config.options.update(horizon=horizon, test_steps=test, valid_steps=valid, rolling=rolling)
    config.sharding = DECODER_SHARDING
    config.model = forecaster_config(pattern=(mixer,))
    config.model.update(
        d_model=48,
        d_ff=192,
        n_heads=8,
        head_dim=48,
        n_layers=3,
        n_series=n_series,
        norm="post",
        norm_epsilon=1e-5,
        positions="axial",
        dropout=0.1,
        attention_dropout=0.1,
        dropout_over_time=False,
    )
    config.model.axial.update(shape=(known + horizon,), dims=(48,), init_scale=0.02)
    if mixer == "log_sparse":
        config.model.log_sparse.update(local=8, qk_kernel=6)
    config.optimizer.update(schedule="constant", learning_rate=1e-3, warmup=500, b2=0.999, eps=1e-8, clip_norm=1.0)
    config.eval.update(every=5000, batch_size=16, metric="rho_0.5")
    config.checkpoint.every = 5000
    config.log_every = 100
    config.sample.length = 0
    if preset in ("etth1", "etth2"):
        config.options.update(scaling="standardise", sampling="uniform")
    elif preset == "exchange_rate":
        config.options.update(scaling="standardise", sampling="uniform", covariates=DAILY)
        config.data.stride = 5
    elif preset == "tiny":
        tiny(config)
    return config.lock()


def tiny(config):
    """Two narrow layers on weather."""
    config.steps = 300
    config.batch_size = 32
    config.data.update(name="seattle_weather", stride=1)
    config.options.update(scaling="standardise", sampling="uniform", covariates=("weekday", "yearday"), samples=100)
    config.model.update(
        d_model=32, d_ff=64, n_heads=2, head_dim=16, n_layers=2, series_dim=4, dropout=0.0, attention_dropout=0.0
    )
    config.model.axial.dims = (32,)
    config.model.log_sparse.update(local=4, qk_kernel=3)
    config.optimizer.update(schedule="cosine", learning_rate=3e-3, warmup=20)
    config.eval.update(every=100, batch_size=32)
    config.checkpoint.every = 100
    config.log_every = 20
