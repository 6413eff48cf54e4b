"""Small trained-looking models of every family, for tests of compression."""

import functools

import jax
import numpy as np

from effjax.models.build import decoder_config
from effjax.tasks import make_task
from effjax.training.config import base_config

OPTIONS = {
    "local": dict(chunk_size=4),
    "lsh": dict(chunk_size=8, n_buckets=(4,), n_hashes=2),
    "performer": dict(n_features=8),
    "longformer": dict(window=(8,)),
    "transformer_xl": dict(memory_length=8),
    "adaptive_span": dict(max_span=8, ramp=4),
    "strided": dict(stride=4),
    "fixed": dict(block=4, summary=1),
    "window": dict(window=(8,)),
    "log_sparse": dict(local=4, qk_kernel=3),
}


@functools.cache
def tiny_config(*pattern, residual="residual", repeats=2):
    """A decoder of bytes, of width 16, as wide in its heads."""
    config = base_config()
    config.data.length = config.eval.context = 16
    config.eval.update(stride=8, batch_size=2, every=0, test=False)
    config.batch_size, config.sample.length, config.steps = 2, 0, 4
    config.optimizer.update(schedule="constant", learning_rate=1e-2, warmup=1)
    config.model = decoder_config(pattern=pattern or ("full",))
    config.model.update(d_model=16, d_ff=32, n_heads=2, head_dim=8, n_layers=repeats * max(len(pattern), 1))
    config.model.update(residual=residual)
    for name in set(pattern) & set(OPTIONS):
        config.model[name].update(OPTIONS[name])
    return config.lock()


@functools.cache
def tiny_params(config_key, **options):
    config = tiny_config(*config_key, **options)
    return jax.jit(make_task(config).init)(jax.random.key(0))


def with_settings(config, **settings):
    """The configuration with other fields, `group__name=value`."""
    config = config.copy_and_resolve_references().unlock()
    for name, value in settings.items():
        *groups, field = name.split("__")
        group = functools.reduce(lambda group, part: group[part], groups, config)
        with group.ignore_type():
            group[field] = value
    return config.lock()


def tokens(rows=2, length=16):
    return np.random.default_rng(0).integers(0, 256, (rows, length)).astype(np.int32)
