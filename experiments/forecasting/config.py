"""One small model on three data sets: `config.py:DATA-MODEL`, such as etth1-full or m4_hourly-log_sparse_6.

Everything but the attention is the same: 2 layers of width 32, 4 heads of 8, Gaussian forecasts, the same windows in
the same order for a seed. The protocols are those of configs/logsparse_forecasting.py, but that etth1 is forecast every
eighth day of its test months.
"""

import pathlib
import runpy

from effjax.errors import UserError

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "logsparse_forecasting.py"
DATA = ("etth1", "exchange_rate", "m4_hourly")
MODELS = {"full": "full"} | {f"log_sparse_{k}": "log_sparse" for k in (1, 3, 6, 9)}  # the number is the convolution's


def get_config(preset: str = "etth1-full"):
    data, _, model = preset.partition("-")
    if data not in DATA or model not in MODELS:
        raise UserError(f"preset={preset!r}; DATA-MODEL is allowed, of {', '.join(DATA)} and {', '.join(MODELS)}")
    config = runpy.run_path(str(CONFIG))["get_config"](data, MODELS[model]).unlock()
    config.steps = 300
    config.batch_size = 32
    config.model.update(
        d_model=32, d_ff=128, n_heads=4, head_dim=8, n_layers=2, dropout=0.1, attention_dropout=0.0, series_dim=8
    )
    config.model.axial.dims = (32,)
    config.model.pattern *= 2
    if model != "full":
        config.model.log_sparse.qk_kernel = int(model.rsplit("_", 1)[1])
    config.optimizer.update(schedule="cosine", learning_rate=2e-3, warmup=50)
    config.options.samples = 50
    config.options.rolling = 192 if data == "etth1" else config.options.rolling
    config.eval.update(every=0, batch_size=16, limit=16, test=False)
    config.checkpoint.update(every=100, keep=1)
    config.log_every = 50
    return config.lock()
