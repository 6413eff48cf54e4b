"""The encoders of the Long Range Arena: one size for all, any mixer that sees both sides in every block."""

import math

from ml_collections import ConfigDict

from effjax.models.build import encoder_config

BOTH_SIDES = (
    "full", "longformer", "linformer", "performer", "lsh", "fixed", "big_bird", "window", "local", "nystromformer"
)  # fmt: skip


def arena_model(*, d_model: int, d_qkv: int = 0, n_heads: int, n_layers: int, d_ff: int, dropout: float) -> ConfigDict:
    """A `model` section with a section for every mixer of `BOTH_SIDES`, `config.mixer` names the one that is used.

    Args:
      d_model: width of the residual stream.
      d_qkv: width of queries of all heads together; 0: d_model.
      n_heads, n_layers, d_ff, dropout: as everywhere.

    Source: the models of the arena's public code: pre-norm, GELU, embeddings of deviation 1, sinusoidal positions; and
    the settings of its mixers, where `fit_to_length` does not take them from the length.
    """
    model = encoder_config(pattern=BOTH_SIDES)
    model.update(
        pattern=("full",),
        d_model=d_model,
        d_ff=d_ff,
        n_heads=n_heads,
        head_dim=(d_qkv or d_model) // n_heads,
        n_layers=n_layers,
        activation="gelu",
        dropout=dropout,
        attention_dropout=dropout,
        dropout_over_time=False,
        init=(("vocabulary/embedding/embedding$", 1.0),),
    )
    model.longformer.update(window=(256,), global_tokens=1)
    model.linformer.update(n_projected=16, sharing="key_value")
    # Features relu(q) + 0.001 of queries and keys themselves.
    model.performer.update(n_features=0, kernel="relu", epsilon=0.001, redraw_interval=0)
    model.lsh.update(n_hashes=1, n_buckets=10)
    model.fixed.update(block=128, summary=32, global_tokens=1)
    model.local.update(look_back=0)
    return model


def fit_to_length(config: ConfigDict, length: int, *, pooling: str = "cls") -> None:
    """Sets the length of documents, and what follows from it.

    Linformer's longest sequence, LSH's chunks (a tenth of the length, as many as buckets), the blocks among which
    BigBird draws, learned positions. A token that stands before the document is one position more.

    Args:
      config: a whole configuration, in place.
      length: in tokens.
      pooling: "cls" or "mean".
    """
    positions = length + (pooling == "cls")
    config.data.length = length
    model = config.model
    model.axial.update(shape=(positions,), dims=(model.d_model,), init_scale=0.02)
    model.linformer.max_length = positions
    model.lsh.chunk_size = math.ceil(positions / 10)
    model.big_bird.among = max(math.ceil(positions / model.big_bird.block), 8)
    for name in ("longformer", "fixed"):
        model[name].global_tokens = int(pooling == "cls")
    config.options.pooling = pooling
