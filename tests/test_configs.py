"""Law 11: the published parameter counts, to the unit, under the conventions that the configuration names."""

import jax
import pytest

from effjax.tasks import make_task
from effjax.training.config import load_config

COUNTS = {
    "configs/longformer_enwik8.py": 41_081_036,
    "configs/longformer_enwik8.py:large": 102_542_540,
    "configs/longformer_text8.py": 40_990_235,
    "configs/reformer_enwik8.py": 56_406_786,
    "configs/reformer_enwik8.py:large": 149_182_722,
    "configs/transformer_xl_enwik8.py": 41_055_436,
    "configs/transformer_xl_enwik8.py:large": 277_231_820,
    "configs/transformer_xl_text8.py": 40_964_635,
    "configs/transformer_xl_text8.py:large": 277_050_395,
}


@pytest.mark.parametrize("config", COUNTS)
def test_parameter_count_is_the_published_one(config):
    task = make_task(load_config(config))
    params = jax.eval_shape(task.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == COUNTS[config]


def test_unknown_preset_is_named():
    with pytest.raises(ValueError, match="preset='huge'"):
        load_config("configs/reformer_enwik8.py:huge")
