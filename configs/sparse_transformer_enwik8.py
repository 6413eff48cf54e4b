"""Sparse Transformer on enwik8 (Child, Gray, Radford & Sutskever 2019, 1904.10509).

Presets, `--config=configs/sparse_transformer_enwik8.py:PRESET`:

- none: the paper's model: 30 layers, 512/2048, 8 heads that each see their block of 128 and the last 32 cells of every
  block before it, 12,288 bytes of context, dropout 0.40. 94,371,840 weights in the matrices of its blocks, as the paper
  counts 95M; 94,888,192 parameters in all. Not trained here yet. Number to expect: 0.99 bits per byte of the test
  bytes, each with at least 12,160 before it; with the scorer's stride of 6,144 set here, 0.9952.

      python -m effjax.evaluate --workdir=runs/sparse --split=test --stride=128

- tiny: the same family, small enough for tests and first steps.

      python -m effjax.train --config=configs/sparse_transformer_enwik8.py:tiny --workdir=runs/sparse_tiny

What the paper says and is kept: pre-norm blocks, x * sigmoid(1.702 x), row and column embeddings, initial weights (an
output matrix of zeros: training starts at ln 256 nats), Adam with 3.5e-4, 5,000 steps of warm-up, cosine decay,
clipping at 1 and weight decay 0.01, activations recomputed in the backward pass, dropout at the ends of the residual
branches. It gives no batch size for enwik8; eight windows a step and its 80 epochs make 73,200 steps. Query, key, value
and output projections have no biases here.
"""

from effjax.errors import UserError
from effjax.models.build import DECODER_SHARDING, decoder_config
from effjax.training.config import base_config

PRESETS = ("", "tiny")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = base_config()
    config.steps = 73_200
    config.batch_size = 8
    config.data.update(name="enwik8", vocabulary="bytes", length=12_288)
    config.sharding = DECODER_SHARDING
    config.model = decoder_config(pattern=("fixed",))
    config.model.update(
        d_model=512,
        d_ff=2048,
        n_heads=8,
        head_dim=64,
        n_layers=30,
        activation="quick_gelu",
        positions="factorised",
        dropout=0.4,
        hidden_dropout=0.0,
        dropout_over_time=False,
        remat=True,
        loss_chunk_size=1024,
    )
    config.model.fixed.update(block=128, summary=32)
    config.model.factorised.shape = (96, 128)
    config.optimizer.update(
        name="adamw",
        schedule="cosine",
        learning_rate=3.5e-4,
        warmup=5000,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        weight_decay=0.01,
        clip_norm=1.0,
    )
    config.eval.update(every=1000, context=12_288, stride=6144, batch_size=8, limit=614_400)
    config.checkpoint.every = 1000
    config.sample.update(prompt="The history of ", length=500, temperature=0.8)
    if preset == "tiny":
        tiny(config)
    config.model.init = initial_weights(config.model)
    return config.lock()


def initial_weights(model):
    """The paper's standard deviations: 0.125 over the root of what a weight sums, less where a residual branch ends."""
    scale, branches = 0.125, (2 * model.n_layers) ** -0.5
    inside = scale * (model.n_heads * model.head_dim) ** -0.5
    return (
        ("vocabulary/embedding/embedding$", scale * model.d_model**-0.5),
        ("positions/axis_", scale * (2 * model.d_model) ** -0.5),
        ("mixer/(query|key|value)/kernel$", scale * model.d_model**-0.5),
        ("mixer/out/kernel$", inside * branches),
        ("feed_forward/inner/kernel$", scale * model.d_model**-0.5),
        ("feed_forward/outer/kernel$", scale * model.d_ff**-0.5 * branches),
        ("vocabulary/head/kernel$", 0.0),
    )


def tiny(config):
    """Four layers over windows of 256 bytes, in blocks of 16 with 4 cells that sum them up."""
    config.steps = 1000
    config.batch_size = 4
    config.data.update(name="enwik8_sample", vocabulary="bytes", length=256)
    config.model.update(
        d_model=128, d_ff=512, n_heads=2, head_dim=64, n_layers=4, dropout=0.0, remat=False, loss_chunk_size=0
    )
    config.model.fixed.update(block=16, summary=4)
    config.model.factorised.shape = (32, 16)
    config.optimizer.update(learning_rate=2e-3, warmup=50)
    config.eval.update(every=250, context=256, stride=128, batch_size=16, limit=10_000)
    config.checkpoint.every = 250
    config.log_every = 20
    config.sample.length = 200
