"""Longformer's encoder, with or without its masked-language head, in Hugging Face's layout; read and written."""

from ml_collections import ConfigDict

from effjax.errors import UserError
from effjax.interop import bert
from effjax.interop.architecture import Architecture
from effjax.interop.rules import Layout, smallest_period
from effjax.interop.settings import Settings

MAX_GLOBAL = 16  # most global tokens of an example: no parameter depends on it, so that it can be changed later


def read(settings: Settings, names: frozenset[str]) -> ConfigDict:
    """The model section. `attention_window` counts both sides: 512 there is `window=256` here."""
    layers, given = settings("num_hidden_layers"), settings("attention_window")
    windows = tuple(given) if isinstance(given, list | tuple) else (given,) * layers
    if len(windows) != layers or any(type(width) is not int or width < 2 or width % 2 for width in windows):
        raise UserError(
            f"{settings.source}: config.json has attention_window={given}; an even number of at least 2, or one for "
            f"each of the {layers} layers, is allowed"
        )
    period, offset = smallest_period(windows), settings("pad_token_id", 1) + 1
    length = settings("max_position_embeddings") - offset
    model = bert.model_section(settings, ("longformer",) * period, positions=length, offset=offset)
    model.activation = settings.activation("hidden_act", "gelu")
    model.head_transform = "gelu_exact" if any(name.startswith("lm_head.") for name in names) else ""
    model.longformer.update(
        window=tuple(width // 2 for width in windows[:period]), use_bias=True, max_global=MAX_GLOBAL
    )
    return model


def write(model: ConfigDict, vocab_size: int) -> dict:
    """`config.json`."""
    windows = tuple(model.longformer.window) * (model.n_layers // len(model.longformer.window))
    kind = "LongformerForMaskedLM" if model.head_transform else "LongformerModel"
    return bert.config_json(model, vocab_size) | {
        "model_type": "longformer",
        "architectures": [kind],
        "attention_window": [2 * window for window in windows],
        "pad_token_id": model.learned.offset - 1,
    }


def layout(model: ConfigDict) -> Layout:
    """Names and axes."""
    local = ("query", "key", "value")
    rules = bert.rules(
        (*local, *(f"{name}_global" for name in local)),
        head="lm_head.dense",
        head_norm="lm_head.layer_norm",
        bias="lm_head.bias",
        transform=bool(model.head_transform),
    )
    return Layout(
        what=f"a Longformer of {model.n_layers} layers of width {model.d_model}",
        rules=rules,
        n_layers=model.n_layers,
        period=len(model.pattern),
        prefix="longformer." if model.head_transform else "",
        outside=("lm_head.",),
        aliases={"lm_head.decoder.weight": bert.WORDS, "lm_head.decoder.bias": "lm_head.bias"},
        ignored=(r"embeddings\.position_ids$", r"(^|\.)pooler\."),
    )


LONGFORMER = Architecture(
    model_type="longformer",
    mixers=frozenset({"longformer"}),
    task=lambda settings: "masked_language_modelling",
    read=read,
    layout=layout,
    write=write,
)
