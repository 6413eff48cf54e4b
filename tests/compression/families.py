"""Small configurations of what is no decoder of bytes: encoders, a pair of stacks, a forecaster, speech."""

import functools

import jax

from effjax.models.build import encoder_config
from effjax.tasks import make_task
from effjax.training.config import load_config
from tests.compression.models import tiny_config, with_settings
from tests.tasks.test_classification import lists
from tests.tasks.test_forecasting import small_config as forecasting_config
from tests.tasks.test_translation import small_config as translation_config

FAMILIES = ("translation", "classifier", "forecaster", "conformer", "linformer", "nystromformer")


@functools.cache
def family_config(name):
    """Two layers, where a configuration of the other tests does not have fewer; every width is 16."""
    common = dict(eval__batch_size=2, eval__limit=4)
    if name == "translation":
        own = dict(batch_size=2, options__decode=("valid",), data__name="wikipedia_titles")
        return with_settings(translation_config("lite_transformer_wmt14"), **common | own)
    if name == "classifier":
        return with_settings(lists(), **common | dict(model__n_layers=2))
    if name == "forecaster":
        return with_settings(forecasting_config(), **common)
    if name in ("conformer", "transducer"):
        config = load_config("configs/conformer_digits.py:tiny")
        own = dict(batch_size=2, model__n_layers=2, options__beam=2)
        own["options__loss"] = "ctc" if name == "conformer" else "transducer"
        return with_settings(config, **common | own)
    return with_settings(masked_config(name), **common)


def masked_config(mixer):
    """A masked language model of one mixer."""
    config = tiny_config("full").copy_and_resolve_references().unlock()
    shared = {key: config.model[key] for key in ("d_model", "d_ff", "n_heads", "head_dim", "n_layers")}
    config.task, config.model = "masked_language_modelling", encoder_config((mixer,))
    config.model.update(shared)
    config.eval.metric = "masked_bits_per_byte"
    own = dict(linformer=dict(n_projected=8, max_length=16), nystromformer=dict(n_landmarks=4, kernel_size=3))
    config.model[mixer].update(own[mixer])
    return config.lock()


@functools.cache
def family_parts(name):
    """Configuration, task and float parameters."""
    config = family_config(name)
    task = make_task(config)
    return config, task, jax.jit(task.init)(jax.random.key(0))
