"""One model of about 2,000,000 parameters per causal family, trained on equal terms: `config.py:FAMILY`.

The same width, heads, layers, optimizer and batches (the bytes and their order depend on the seed alone), but for the
families that carry a memory along: these read two streams in order, and are scored as streams. The hidden layer of the
feed-forward networks takes up what the families' own parameters leave, so that all models have the same number of
parameters within 3 %. Positions: each family's own where it has them (relative embeddings, distances of a convolution),
rotary where the layer offers them, sinusoidal for LSH, whose queries are its keys, and for LSRA, whose layer has none.
"""

import jax

from effjax.errors import UserError
from effjax.models.build import decoder_config
from effjax.tasks import make_task
from effjax.training.config import base_config

PARAMETERS = 2_000_000
LENGTH = 512
# What is particular to a family at this size: windows and chunks of 128, memories of one segment, strides of about the
# root of the length.
FAMILIES = {
    "full": dict(mixer="full", rotary=True),
    "local": dict(mixer="local", rotary=True, chunk_size=64),
    "window": dict(mixer="window", rotary=True, window=(128,)),
    "strided": dict(mixer="strided", rotary=True, stride=32),
    "fixed": dict(mixer="fixed", rotary=True, block=32, summary=8),
    "log_sparse": dict(mixer="log_sparse", rotary=True, local=16),
    "big_bird": dict(mixer="big_bird", rotary=True, block=16, n_random=2),
    "longformer": dict(mixer="longformer", rotary=True, window=(16, 32, 64, 128), dilation=(1, 1, 1, 2)),
    "lsh": dict(mixer="lsh", chunk_size=32, n_hashes=2, n_buckets=(32,)),
    "performer": dict(mixer="performer", rotary=True, n_features=128),
    "transformer_xl": dict(mixer="transformer_xl", streams=True, memory_length=128),
    "adaptive_span": dict(mixer="adaptive_span", streams=True, max_span=256, ramp=32, span_loss=2e-6),
    "depthwise_conv": dict(mixer="depthwise_conv"),
    "light_conv": dict(mixer="light_conv"),
    "dynamic_conv": dict(mixer="dynamic_conv"),
    "lsra": dict(mixer="lsra"),
}


def get_config(preset: str = "full"):
    if preset not in FAMILIES:
        raise UserError(f"preset={preset!r}; one of {', '.join(FAMILIES)} is allowed")
    options = dict(FAMILIES[preset])
    mixer, streams = options.pop("mixer"), options.pop("streams", False)
    config = base_config()
    config.steps = 300
    config.batch_size = 2  # small batches: at 0.3 million bytes in all, more steps teach more than wider ones
    config.data.update(name="enwik8", length=LENGTH, reader="streams" if streams else "windows")
    config.model = decoder_config(pattern=(mixer,) * 4)
    config.model.update(d_model=192, d_ff=768, n_heads=4, head_dim=48, n_layers=4)
    config.model[mixer].update(options)
    config.model.positions = "sinusoidal" if mixer in ("lsh", "lsra") else "none"
    config.optimizer.update(schedule="cosine", learning_rate=2e-3, warmup=50, clip_norm=1.0)
    config.eval.update(every=100, context=LENGTH, stride=LENGTH // 2, batch_size=8, limit=16_384, test=False)
    config.eval.reader = config.data.reader
    config.checkpoint.update(every=100, keep=1)
    config.sample.length = 0
    config.model.d_ff = hidden_width(config)
    return config.lock()


def hidden_width(config) -> int:
    """The multiple of 8 for `d_ff` that brings the model nearest to `PARAMETERS`."""

    def parameters(d_ff):
        config.model.d_ff = d_ff
        shapes = make_task(config).abstract_params
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    narrow, wide = parameters(8), parameters(16)
    return 8 * max(1, round((PARAMETERS - narrow) / (wide - narrow)) + 1)
