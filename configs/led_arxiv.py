"""Longformer encoder-decoder (LED) for arXiv summaries (Beltagy, Peters & Cohan 2020, 2004.05150).

Presets, `--config=configs/led_arxiv.py:PRESET`:

- none: the large model, 12+12 layers, 1024/4096, 16 heads, 459,847,769 parameters; a window of 512 to either side over
  16,384 tokens, the first of which is global; a decoder that attends fully. Number to expect: ROUGE-1/2/L of
  46.63/19.62/41.83 with BART's weights to start from, which are not loaded here.
- base: 6+6 layers, 768/3072, 12 heads; 161,891,673 parameters.
- tiny: two layers on the toy documents that ship with the package, for tests and first steps.

      python -m effjax.train --config=configs/led_arxiv.py:tiny --workdir=runs/led
      python -m effjax.predict --workdir=runs/led article.txt

Not trained here: the corpus (TensorFlow Datasets' `scientific_papers/arxiv`) is not at hand. Learned positions, gelu
and post-norm blocks are BART's; it has a norm behind the embeddings and other byte pairs, and is fine-tuned from
weights that were pre-trained. Optimizer: the authors' script (3e-5 after 1,000 steps, batch 16, 5 epochs of 203,037
articles).
"""

from effjax.errors import UserError
from effjax.models.build import DECODER_SHARDING
from effjax.models.seq2seq import seq2seq_config
from effjax.tasks.text_to_text import text_options
from effjax.training.config import base_config

PRESETS = ("", "base", "tiny")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    config = base_config()
    config.task = "summarisation"
    config.steps = 63_450
    config.batch_size = 16
    config.data.update(name="arxiv", vocabulary="bpe:50265", length=512)
    config.sharding = DECODER_SHARDING
    config.options = text_options()
    config.options.update(
        source_length=16_384, pack=False, truncate=True, learn_from=20_000, beams=4, length_penalty=2.0
    )
    config.model = seq2seq_config(encoder=("longformer",), decoder=("full",))
    config.model.update(
        norm="post", norm_epsilon=1e-5, activation="gelu_exact", dropout=0.1, attention_dropout=0.1, hidden_dropout=0.0
    )
    config.model.encoder.longformer.update(window=(512,), global_tokens=1, use_bias=True)
    config.model.decoder.full.use_bias = True
    config.model.init = (("(embedding|kernel)$", 0.02), ("positions/axis_", 0.02))
    size(config, d_model=1024, d_ff=4096, n_heads=16, n_layers=12)
    positions(config, 16_384, 1024)
    config.optimizer.update(name="adam", schedule="cosine", learning_rate=3e-5, warmup=1000, b2=0.999, eps=1e-8)
    config.eval.update(every=2000, batch_size=4, limit=200, metric="loss")
    config.checkpoint.every = 2000
    config.log_every = 50
    config.sample.length = 0
    if preset == "base":
        size(config, d_model=768, d_ff=3072, n_heads=12, n_layers=6)
        positions(config, 16_384, 1024)
    if preset == "tiny":
        tiny(config)
    return config.lock()


def size(config, *, d_model, d_ff, n_heads, n_layers):
    head_dim = d_model // n_heads
    config.model.update(d_model=d_model, d_ff=d_ff, n_heads=n_heads, head_dim=head_dim)
    config.model.update(cross_heads=n_heads, cross_head_dim=head_dim)
    config.model.encoder.n_layers = config.model.decoder.n_layers = n_layers


def positions(config, source, target):
    """Learned positions of so many tokens on each side."""
    for side, length in ((config.model.encoder, source), (config.model.decoder, target)):
        side.positions = "axial"
        side.axial.update(shape=(length,), dims=(config.model.d_model,))


def tiny(config):
    """Two layers of width 64 with a window of 8 to either side."""
    config.steps = 600
    config.batch_size = 16
    config.data.update(name="digests", vocabulary="bpe:400", length=48)
    config.options.update(source_length=128, learn_from=0, length_penalty=1.0)
    config.model.update(dropout=0.0, attention_dropout=0.0, init=())
    config.model.encoder.longformer.window = (8,)
    size(config, d_model=64, d_ff=128, n_heads=2, n_layers=2)
    positions(config, 128, 64)
    config.optimizer.update(learning_rate=2e-3, warmup=100)
    config.eval.update(every=200, batch_size=50, limit=0)
    config.checkpoint.every = 200
    config.log_every = 20
