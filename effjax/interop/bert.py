"""What Longformer and BigBird share in Hugging Face's layout, BERT's: embeddings, blocks, a masked-language head."""

import itertools

from ml_collections import ConfigDict

from effjax.interop.rules import FLAT, Rule, linear
from effjax.interop.settings import Settings, foreign_activation
from effjax.models.build import encoder_config

LAYER = "encoder.layer.{layer}."
MIXING, FEEDING = "stack/period/mixing_{block}/", "stack/period/feeding_{block}/"
WORDS = "embeddings.word_embeddings.weight"


def model_section(settings: Settings, pattern: tuple[str, ...], *, positions: int, offset: int) -> ConfigDict:
    """The section of an encoder with these mixers, but for the fields of the mixers and of the head."""
    heads, width = settings("num_attention_heads"), settings("hidden_size")
    settings.only("position_embedding_type", ("absolute",), "absolute", "positions are added to embeddings here")
    settings.only("is_decoder", (False,), False, "encoders are read")
    settings.only("chunk_size_feed_forward", (0,), 0, "set config.model.ff_chunk_size after the import")
    model = encoder_config(pattern)
    model.update(
        d_model=width,
        d_ff=settings("intermediate_size"),
        n_heads=heads,
        head_dim=width // heads,
        n_layers=settings("num_hidden_layers"),
        norm="post",
        norm_epsilon=float(settings("layer_norm_eps", 1e-12)),
        positions="learned",
        token_types=settings("type_vocab_size", 2),
        embedding_norm=True,
        tie_embeddings=True,
        dropout=float(settings("hidden_dropout_prob", 0.1)),
        attention_dropout=float(settings("attention_probs_dropout_prob", 0.1)),
        dropout_over_time=False,
    )
    model.learned.update(length=positions, offset=offset)
    return model


def config_json(model: ConfigDict, vocab_size: int) -> dict:
    """The fields of `config.json` that both have."""
    return {
        "vocab_size": vocab_size,
        "hidden_size": model.d_model,
        "num_hidden_layers": model.n_layers,
        "num_attention_heads": model.n_heads,
        "intermediate_size": model.d_ff,
        "hidden_act": foreign_activation(model.activation),
        "hidden_dropout_prob": model.dropout,
        "attention_probs_dropout_prob": model.attention_dropout,
        "max_position_embeddings": model.learned.length + model.learned.offset,
        "type_vocab_size": model.token_types,
        "layer_norm_eps": model.norm_epsilon,
        "torch_dtype": "float32",
    }


def rules(projections: tuple[str, ...], *, head: str, head_norm: str, bias: str, transform: bool) -> tuple[Rule, ...]:
    """The rules of a whole model.

    Args:
      projections: names of the projections into heads, the same here and there.
      head, head_norm, bias: names of the parts of the masked-language head.
      transform: whether the model has one.
    """
    blocks = [
        *itertools.chain(*(projection(name) for name in projections)),
        *dense(LAYER + "attention.output.dense", MIXING + "mixer/out", inputs=2),
        *norm(LAYER + "attention.output.LayerNorm", MIXING + "norm"),
        *dense(LAYER + "intermediate.dense", FEEDING + "feed_forward/inner"),
        *dense(LAYER + "output.dense", FEEDING + "feed_forward/outer"),
        *norm(LAYER + "output.LayerNorm", FEEDING + "norm"),
    ]
    embeddings = [
        Rule(WORDS, "vocabulary/embedding/embedding"),
        Rule("embeddings.position_embeddings.weight", "positions/table"),
        Rule("embeddings.token_type_embeddings.weight", "token_types/embedding"),
        *norm("embeddings.LayerNorm", "input_norm"),
    ]
    scores = [Rule(None, "vocabulary/bias")]
    if transform:
        scores = [
            *dense(head, "vocabulary/head_transform/dense"),
            *norm(head_norm, "vocabulary/head_transform/norm"),
            Rule(bias, "vocabulary/bias"),
        ]
    return (*embeddings, *blocks, *scores)


def projection(name: str) -> list[Rule]:
    """A linear map into heads, and its bias."""
    theirs, ours = f"{LAYER}attention.self.{name}", f"{MIXING}mixer/{name}"
    return [Rule(f"{theirs}.weight", f"{ours}/kernel", linear()), Rule(f"{theirs}.bias", f"{ours}/bias", FLAT)]


def dense(theirs: str, ours: str, *, inputs: int = 1, block: int | None = None) -> list[Rule]:
    """A linear map and its bias."""
    return [
        Rule(f"{theirs}.weight", f"{ours}/kernel", linear(inputs), block),
        Rule(f"{theirs}.bias", f"{ours}/bias", block=block),
    ]


def norm(theirs: str, ours: str, *, block: int | None = None) -> list[Rule]:
    """A layer norm."""
    return [
        Rule(f"{theirs}.weight", f"{ours}/scale", block=block),
        Rule(f"{theirs}.bias", f"{ours}/bias", block=block),
    ]
