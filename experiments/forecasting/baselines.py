"""Scores statsforecast's models on the windows that run.py scores, and writes `metrics/DATA-NAME.json` of each.

  pip install -r experiments/forecasting/requirements.txt
  python experiments/forecasting/baselines.py --data=DATA

Each model is fitted anew to the last `--history` values before every forecast. The median is the mean of its normal
forecast, the 0.9-quantile the upper end of its 80 % interval.
"""

import functools
import pathlib
import sys
import time

import numpy as np
import statsforecast
from run import CONFIG, DATA, HERE, data_path
from statsforecast.models import AutoETS, DynamicOptimizedTheta, SeasonalNaive

from effjax import cli
from effjax.tasks import make_task
from effjax.training.config import load_config
from effjax.training.workdir import keep_result

# The season of each set, in steps; currencies have none, and the seasonal-naive forecast is the last value.
SEASONS = {"etth1": 24, "exchange_rate": 1, "m4_hourly": 24}
BASELINES = {
    "seasonal_naive": lambda season: SeasonalNaive(season_length=season),
    "weekly_naive": lambda season: SeasonalNaive(season_length=7 * 24),
    "theta": lambda season: DynamicOptimizedTheta(season_length=season),
    "ets": lambda season: AutoETS(season_length=season),
}


def main(argv=None) -> None:
    parser = cli.plain_parser("forecasting_baselines", __doc__)
    parser.add_argument("--data", required=True, help="the folder of the three data sets")
    parser.add_argument("--sets", default=",".join(DATA), help="with commas (default: %(default)s)")
    parser.add_argument("--models", default=",".join(BASELINES), help="with commas (default: %(default)s)")
    parser.add_argument("--history", type=int, default=672, help="values that a model is fitted to (default: 672)")
    parser.add_argument("--metrics", default=str(HERE / "metrics"), help="(default: beside this file)")
    args = parser.parse_args(argv)
    models = cli.chosen("--models", args.models, tuple(BASELINES))
    metrics = pathlib.Path(args.metrics)
    for data in cli.chosen("--sets", args.sets, DATA):
        for name in models:
            if name == "weekly_naive" and SEASONS[data] != 24:
                continue
            path = metrics / f"{data}-{name}.json"
            keep_result(path, functools.partial(score, data, name, args))
            print(path.read_text(), flush=True)


def score(data: str, name: str, args) -> dict:
    """rho-risks of one model on all test windows of a set."""
    config = load_config(f"{CONFIG}:{data}-full").unlock()
    config.data.path = data_path(args.data, data)
    task = make_task(config.lock())
    windows, horizon = task.examples("test"), config.options.horizon
    start, losses, total = time.process_time(), {"rho_0.5": 0.0, "rho_0.9": 0.0}, 0.0
    for number, begin in zip(windows.numbers, windows.starts + task.context):
        values = task.series.values[number].astype(np.float64)
        known, true = values[max(begin - args.history, 0) : begin], values[begin : begin + horizon]
        model = BASELINES[name](SEASONS[data])
        forecast = model.forecast(y=known, h=horizon, level=[80])
        for rho, quantile in ((0.5, forecast["mean"]), (0.9, forecast["hi-80"])):
            losses[f"rho_{rho}"] += 2 * np.sum((true - quantile) * (rho - (true <= quantile)))
        total += np.abs(true).sum()
    return {
        "data": data,
        "model": name,
        "windows": len(windows),
        "history": args.history,
        "test": {rho: float(loss / total) for rho, loss in losses.items()},
        "cpu_seconds": round(time.process_time() - start, 1),
        "statsforecast": statsforecast.__version__,
    }


if __name__ == "__main__":
    sys.exit(cli.run(main))
