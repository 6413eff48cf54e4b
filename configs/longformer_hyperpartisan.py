"""Longformer on long news articles: hyperpartisan or not? (Beltagy, Peters & Cohan 2020, 2004.05150, section 6).

Presets, `--config=configs/longformer_hyperpartisan.py:PRESET`:

- none: the paper's sizes, 12 layers, 768/3072, 12 heads, windows of 256 to either side, 4,096 tokens, the first of them
  global. Not trained here. Published, from RoBERTa's weights, in RoBERTa's word pieces, on one split: F1 94.8.
- pretrain: the same encoder as a masked language model, whose run the first preset starts from (`options.init_from`).
- small, small_pretrain: 2 layers, 64/128, windows of 32, 512 words; experiments/hyperpartisan has their scores.
- tiny, tiny_pretrain: the same over 256 words, for tests and first steps, of the enwik8 sample that ships with the
  package: paragraphs of a person or not, and the text as it stands.

      python -m effjax.train --config=configs/longformer_hyperpartisan.py:small_pretrain --workdir=runs/masked \
        --config.data.path=enwik8.zip
      python -m effjax.train --config=configs/longformer_hyperpartisan.py:small --workdir=runs/hyperpartisan \
        --config.data.path=FOLDER --config.options.init_from=runs/masked
      python -m effjax.predict --workdir=runs/hyperpartisan article.txt

FOLDER holds articles-training-byarticle-20181122.xml and ground-truth-training-byarticle-20181122.xml, plain or .xz.
`options.fold` of `options.folds` parts is the test split. Words are hashed to ids (`effjax.data.hashed_words`), since a
list of them would have to come from some text; the class is read from the mask, put before the article, the one token
with global attention. Positions are sinusoidal. What the paper has and is not here: RoBERTa's weights and vocabulary.
"""

from effjax.errors import UserError
from effjax.models.build import DECODER_SHARDING, encoder_config
from effjax.tasks.classification import classification_options
from effjax.training.config import base_config

SIZES = {  # width, feed-forward, heads, layers, one side of the window, tokens, ids of words
    "": (768, 3072, 12, 12, 256, 4096, 50_265),
    "small": (64, 128, 2, 2, 32, 512, 4096),
    "tiny": (64, 128, 2, 2, 16, 256, 2048),
}
PRESETS = ("", "pretrain", "small", "small_pretrain", "tiny", "tiny_pretrain")


def get_config(preset: str = ""):
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}; one of {', '.join(repr(name) for name in PRESETS)} is allowed")
    size = preset.removesuffix("pretrain").removesuffix("_")
    d_model, d_ff, n_heads, n_layers, window, length, words = SIZES[size]
    config = base_config().unlock()
    config.data.update(vocabulary=f"hashed_words:{words}", length=length)
    config.sharding = DECODER_SHARDING
    config.model = encoder_config(pattern=("longformer",))
    config.model.update(d_model=d_model, d_ff=d_ff, n_heads=n_heads, head_dim=d_model // n_heads, n_layers=n_layers)
    config.model.update(activation="gelu", dropout=0.1, attention_dropout=0.1, dropout_over_time=False)
    config.model.init = (("vocabulary/embedding/embedding$", 0.02),)
    config.model.embedding_scale = float(d_model) ** 0.5
    config.model.longformer.update(window=(window,), global_tokens=1, use_bias=True)
    config.optimizer.update(name="adamw", schedule="cosine", weight_decay=0.01, clip_norm=1.0)
    config.sample.length = 0
    (pretrain if preset.endswith("pretrain") else classify)(config, size)
    return config.lock()


def pretrain(config, size):
    """The encoder as a masked language model of enwik8's words."""
    config.task = "masked_language_modelling"
    config.model.tie_embeddings = True
    config.data.name = "enwik8_sample" if size == "tiny" else "enwik8"
    config.steps, config.batch_size, rate, warmup = {
        "": (65_000, 64, 3e-5, 500),
        "small": (300, 4, 2e-3, 30),
        "tiny": (200, 4, 1e-3, 20),
    }[size]
    config.model.loss_chunk_size = 512 if size == "" else 0
    config.optimizer.update(learning_rate=rate, warmup=warmup)
    length = config.data.length
    config.eval.update(every=200, context=length, stride=length // 2, batch_size=4, limit=20_000, test=False)
    config.eval.metric = "masked_bits_per_symbol"
    config.checkpoint.every = 200


def classify(config, size):
    """The encoder under a classifier of articles."""
    config.task = "classification"
    config.data.name = "wikipedia_people" if size == "tiny" else "hyperpartisan"
    config.options = classification_options("hyperpartisan")
    config.steps, config.batch_size, rate, warmup = {
        "": (260, 32, 3e-5, 26),
        "small": (120, 8, 1e-3, 12),
        "tiny": (100, 8, 1e-3, 10),
    }[size]
    config.optimizer.update(learning_rate=rate, warmup=warmup)
    config.eval.update(every=50, batch_size=8, limit=0, metric="error_rate")
    config.checkpoint.every = 50
