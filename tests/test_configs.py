"""Law 11: the published parameter counts, to the unit, under the conventions that the configuration names."""

import pytest

from effjax.plan import count_parameters
from effjax.tasks import make_task
from effjax.training.config import load_config

COUNTS = {
    "configs/adaptive_span_enwik8.py": 38_538_541,
    "configs/adaptive_span_enwik8.py:large": 208_910_221,
    "configs/adaptive_span_enwik8.py:small": 6_480_621,
    "configs/adaptive_span_text8.py": 38_357_116,
    "configs/adaptive_span_text8.py:large": 208_638_172,
    "configs/led_arxiv.py": 459_847_769,
    "configs/led_arxiv.py:base": 161_891_673,
    "configs/linformer_enwik8.py": 88_754_177,
    "configs/longformer_enwik8.py": 41_081_036,
    "configs/longformer_enwik8.py:large": 102_542_540,
    "configs/longformer_text8.py": 40_990_235,
    "configs/longformer_text8.py:large": 102_451_739,
    "configs/performer_enwik8.py": 38_264_064,
    "configs/performer_text8.py": 38_029_339,
    "configs/reformer_enwik8.py": 56_406_786,
    "configs/reformer_enwik8.py:large": 149_182_722,
    "configs/reformer_text8.py": 55_874_331,
    "configs/sparse_transformer_enwik8.py": 94_888_192,
    "configs/sparse_transformer_text8.py": 94_653_467,
    "configs/transformer_xl_enwik8.py": 41_055_436,
    "configs/transformer_xl_enwik8.py:large": 277_231_820,
    "configs/transformer_xl_text8.py": 40_964_635,
    "configs/transformer_xl_text8.py:large": 277_050_395,
    "configs/transformer_xl_wikitext103.py": 151_107_538,
    "configs/transformer_xl_wikitext103.py:large": 285_205_322,
}
# Layers that are traced one by one.
LONG_TO_TRACE = [name for name in COUNTS if "longformer" in name or "led" in name]


@pytest.mark.parametrize(
    "config", [pytest.param(c, marks=pytest.mark.slow) if c in LONG_TO_TRACE else c for c in COUNTS]
)
def test_parameter_count_is_the_published_one(config):
    task = make_task(load_config(config))
    assert count_parameters(task.abstract_params)["total"] == COUNTS[config]


def test_unknown_preset_is_named():
    with pytest.raises(ValueError, match="preset='huge'"):
        load_config("configs/reformer_enwik8.py:huge")
