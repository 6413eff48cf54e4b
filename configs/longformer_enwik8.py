"""Longformer on enwik8 (Beltagy, Peters & Cohan 2020, 2004.05150), trained in five stages.

Presets, `--config=configs/longformer_enwik8.py:PRESET`:

- none: the small model: 12 layers, 512/2048, 8 heads, two of them dilated in the upper half; 41,081,036 parameters
  (published: 41M). Not trained here yet. Number to expect: 1.00 bits per symbol of the test text.
- large: 30 layers, dropout 0.4; 102,542,540 parameters (published: 102M). Number to expect: 0.99.
- tiny: three stages over the bytes in the package, for tests and first steps.

      python -m effjax.train --config=configs/longformer_enwik8.py:tiny --workdir=runs/longformer
      python -m effjax.plan --config=configs/longformer_enwik8.py --stage=1

A stage doubles windows and length and halves the learning rate: from 2,048 bytes with windows of 32 at the bottom and
8,192 at the top to, in the end, 23,040 bytes. Within a stage the rate is constant after a warm-up of a tenth of its
steps, at most 10,000. The last stage scores as the paper does: windows of 32,256 that move on by 512.

What the paper does not say, and is decided here: the windows between the bottom and the top layer go up geometrically,
to the nearest power of two, and stop at 32,256, beyond which there is no text to see; queries, keys, values and outputs
have biases and every layer projects distances on its own (which the published sizes imply), u and u' are shared by all
layers; the stream is Transformer-XL's, without newlines, tied embeddings and initial values too; dropout is not applied
to attention weights; all layers recompute their activations.
"""

import math

from effjax.errors import UserError
from effjax.models.build import DECODER_SHARDING, decoder_config
from effjax.training.config import base_config

PRESETS = ("", "large", "tiny")
LENGTHS = (2048, 4096, 8192, 16_384, 23_040)
BATCHES = (32, 32, 16, 16, 16)
LONGEST = 32_256  # positions that the score looks at
# Upper layers have two heads with gaps: none up to the middle, then a gap more with every third of the rest.
DILATION = {12: (6, 2), 30: (15, 5)}  # layers without gaps, layers for each further gap


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    n_layers = 30 if preset == "large" else 12
    config = base_config()
    config.data.update(name="enwik8", vocabulary="drop_newlines")
    config.sharding = DECODER_SHARDING
    config.model = decoder_config(pattern=("longformer",) * (2 if preset == "tiny" else n_layers))
    config.model.update(
        n_layers=n_layers,
        activation="gelu",
        positions="none",
        tie_embeddings=True,
        embedding_scale=math.sqrt(config.model.d_model),
        dropout=0.4 if preset == "large" else 0.2,
        dropout_over_time=False,
        remat=True,
        loss_chunk_size=2048,
        init=(
            ("vocabulary/embedding/embedding$", 0.02),
            ("mixer/(query|key|value|distance|out)/kernel$", 0.02),
            ("feed_forward/(inner|outer)/kernel$", 0.02),
        ),
    )
    config.model.longformer.update(relative=True, use_bias=True)
    config.optimizer.update(
        name="adamw", schedule="constant", b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01, clip_norm=0.25
    )
    config.eval.update(every=5000, batch_size=8, limit=102_400, metric="bits_per_symbol")
    config.checkpoint.every = 1000
    config.log_every = 100
    config.sample.update(prompt="The history of ", length=500, temperature=0.8)
    if preset == "tiny":
        tiny(config)
    else:
        full(
            config,
            (350_000, 25_000, 10_000, 5000, 5000) if preset == "large" else (430_000, 50_000, 50_000, 35_000, 5000),
        )
    return config.lock()


def full(config, steps):
    """The published five stages."""
    n_layers = config.model.n_layers
    plain, each = DILATION[n_layers]
    gaps = [0 if layer < plain else 1 + (layer - plain) // each for layer in range(n_layers)]
    config.model.longformer.dilation = tuple((1,) * 6 + (1 + gap,) * 2 if gap else 1 for gap in gaps)
    windows = [2 ** round(5 + 8 * layer / (n_layers - 1)) for layer in range(n_layers)]
    warmup = [min(count // 10, 10_000) for count in steps]
    stages = [stage(i, LENGTHS[i], BATCHES[i], windows, 2.5e-4, warmup[i]) for i in range(len(steps))]
    stages[-1].update({"eval.context": LONGEST, "eval.stride": 512})
    begin(config, steps, stages)


def tiny(config):
    """Four layers, every second one with a wider window and a dilated head; windows and length double twice."""
    config.data.update(name="enwik8_sample", vocabulary="bytes")
    config.model.update(d_model=128, d_ff=256, n_heads=2, n_layers=4, embedding_scale=math.sqrt(128))
    config.model.update(dropout=0.0, remat=False, loss_chunk_size=0)
    config.model.longformer.dilation = (1, (1, 2))
    config.optimizer.update(clip_norm=1.0)
    config.eval.update(every=200, batch_size=16, limit=10_000, metric="bits_per_byte")
    config.checkpoint.every = 200
    config.log_every = 20
    config.sample.length = 200
    begin(config, (600, 250, 150), [stage(i, 128 * 2**i, 8, (16, 48), 2e-3, 50) for i in range(3)])


def stage(i, length, batch_size, windows, learning_rate, warmup):
    """The fields of stage i, from the windows and the learning rate of the first one."""
    return {
        "data.length": length,
        "batch_size": batch_size,
        "model.longformer.window": tuple(min(window * 2**i, LONGEST) for window in windows),
        "optimizer.learning_rate": learning_rate / 2**i,
        "optimizer.warmup": warmup,
        "eval.context": length,
        "eval.stride": length // 2,
    }


def begin(config, steps, stages):
    """The first stage is the configuration itself; the others are written as stages."""
    config.steps = sum(steps)
    config.update_from_flattened_dict(stages[0])
    config.stages = tuple((count, tuple(fields.items())) for count, fields in zip(steps, [{}, *stages[1:]]))
