"""BigBird's encoder, with or without its masked-language head, in Hugging Face's layout; read and written.

Window and global blocks are the same here and there. Random blocks are not part of the weights: there numpy draws them
in training, in evaluation all of them are block 0; here each layer draws its own from its number, in training and in
evaluation. With `attention_type="original_full"` outputs agree to rounding. There sequences of at most
`(5 + 2 num_random_blocks) block_size` tokens are silently mixed by full attention; here they are not.
"""

import math

from ml_collections import ConfigDict

from effjax.interop import bert
from effjax.interop.architecture import Architecture
from effjax.interop.rules import Layout
from effjax.interop.settings import Settings

KINDS = ("block_sparse", "original_full")


def read(settings: Settings, names: frozenset[str]) -> ConfigDict:
    """The model section."""
    settings.only("attention_type", KINDS, KINDS[0], "there are no others")
    settings.only("use_bias", (True,), True, "all four projections have biases here, or none")
    layers, length = settings("num_hidden_layers"), settings("max_position_embeddings")
    sparse = settings("attention_type", KINDS[0]) == KINDS[0]
    pattern = ("big_bird",) * layers if sparse else ("full",)
    model = bert.model_section(settings, pattern, positions=length, offset=0)
    model.activation = settings.activation("hidden_act", "gelu_new")
    if any(name.startswith("cls.predictions.") for name in names):
        model.head_transform = model.activation
    if settings("rescale_embeddings", False):
        model.embedding_scale = math.sqrt(model.d_model)
    if sparse:
        block = settings("block_size", 64)
        model.big_bird.update(
            block=block,
            n_random=settings("num_random_blocks", 3),
            among=max(length // block, 1),
            seed=tuple(range(layers)),
            use_bias=True,
        )
    else:
        model.full.use_bias = True
    return model


def write(model: ConfigDict, vocab_size: int) -> dict:
    """`config.json`."""
    sparse = "big_bird" in model.pattern
    sizes = {"block_size": model.big_bird.block, "num_random_blocks": model.big_bird.n_random} if sparse else {}
    return (
        bert.config_json(model, vocab_size)
        | sizes
        | {
            "model_type": "big_bird",
            "architectures": ["BigBirdForMaskedLM" if model.head_transform else "BigBirdModel"],
            "attention_type": KINDS[0] if sparse else KINDS[1],
            "rescale_embeddings": model.embedding_scale != 1.0,
            "use_bias": True,
            "pad_token_id": 0,
        }
    )


def layout(model: ConfigDict) -> Layout:
    """Names and axes."""
    rules = bert.rules(
        ("query", "key", "value"),
        head="cls.predictions.transform.dense",
        head_norm="cls.predictions.transform.LayerNorm",
        bias="cls.predictions.bias",
        transform=bool(model.head_transform),
    )
    return Layout(
        what=f"a BigBird of {model.n_layers} layers of width {model.d_model}",
        rules=rules,
        n_layers=model.n_layers,
        period=len(model.pattern),
        prefix="bert." if model.head_transform else "",
        outside=("cls.",),
        aliases={"cls.predictions.decoder.weight": bert.WORDS, "cls.predictions.decoder.bias": "cls.predictions.bias"},
        ignored=(r"embeddings\.(position|token_type)_ids$", r"(^|\.)pooler\.", r"^cls\.seq_relationship\."),
    )


BIG_BIRD = Architecture(
    model_type="big_bird",
    mixers=frozenset({"big_bird", "full"}),
    task=lambda settings: "masked_language_modelling",
    read=read,
    layout=layout,
    write=write,
)
