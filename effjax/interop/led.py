"""LED, Longformer's encoder before a decoder that attends fully, in Hugging Face's layout; read and written.

Its byte pairs are those of a tokenizer elsewhere, so that no task here trains it; it is a model in Python.
"""

from collections.abc import Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from effjax.errors import UserError
from effjax.interop.architecture import INDIFFERENT, by_layer
from effjax.interop.bert import dense, norm
from effjax.interop.longformer import MAX_GLOBAL
from effjax.interop.rules import FLAT, Layout, Rule, linear, reshaped, smallest_period, to_ours, to_theirs
from effjax.interop.settings import Settings, foreign_activation
from effjax.models.seq2seq import Seq2Seq, make_seq2seq, seq2seq_config

MODEL_TYPE = "led"
LONGFORMER = "encoder.layers.{layer}.self_attn.longformer_self_attn."


def import_led(
    settings: Mapping, tensors: Mapping[str, np.ndarray], *, source: str = "the state dict"
) -> tuple[ConfigDict, Seq2Seq, dict]:
    """Reads an LED with its head.

    Args:
      settings: its `config.json`.
      tensors: by name.
      source: what they come from, for errors.

    Returns:
      `(section, model, params)`: the model's configuration, the model, and parameters, float32;
      `model.apply({"params": params}, inputs, previous, source={"global_mask": …})`.

    Raises:
      UserError: a setting that is not known here, or tensors that do not fit, listed.
    """
    settings = Settings(settings, source)
    section, model, params = build(settings)
    return section, model, to_ours(layout(section, settings("vocab_size")), tensors, params, source=source)


def build(settings: Settings) -> tuple[ConfigDict, Seq2Seq, dict]:
    """`(section, model, params)` as `import_led` gives them, of parameters their shapes alone."""
    section = read(settings)
    model = make_seq2seq(section, vocab_size=settings("vocab_size"))
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return section, model, jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)["params"]


def export_led(section: ConfigDict, params) -> tuple[dict, dict[str, np.ndarray]]:
    """Writes an encoder-decoder as LEDForConditionalGeneration: `(settings, tensors)`.

    Raises:
      UserError: fields of the model that no LED has, listed.
    """
    if set(section.encoder.pattern) != {"longformer"} or set(section.decoder.pattern) != {"full"}:
        raise UserError(
            f"model.encoder.pattern={tuple(section.encoder.pattern)}, model.decoder.pattern="
            f"{tuple(section.decoder.pattern)}; an LED has 'longformer' and 'full'"
        )
    vocab_size = len(params["vocabulary"]["bias"])
    settings = write(section, vocab_size)
    ours, again = _flat(section), _flat(read(Settings(settings, "the export")))
    differ = [
        f"model.{name}={ours.get(name)!r} ({again.get(name)!r} there)"
        for name in sorted(ours | again)
        if ours.get(name) != again.get(name)
    ]
    if differ:
        raise UserError(f"an LED there is not this model: {'; '.join(differ)}")
    return settings, to_theirs(layout(section, vocab_size), params)


def read(settings: Settings) -> ConfigDict:
    """The section of an encoder-decoder."""
    settings.only("model_type", (MODEL_TYPE,), MODEL_TYPE, "this reads LED")
    sides = ("encoder", "decoder")
    for name in ("ffn_dim", "attention_heads"):
        if settings(f"encoder_{name}") != settings(f"decoder_{name}"):
            names = f"encoder_{name} and decoder_{name}"
            raise UserError(f"{settings.source}: config.json has unlike {names}; equal ones only")
    layers, given = settings("encoder_layers"), settings("attention_window")
    windows = tuple(given) if isinstance(given, list | tuple) else (given,) * layers
    if len(windows) != layers or any(width < 2 or width % 2 for width in windows):
        raise UserError(f"{settings.source}: config.json has attention_window={given}; an even number a layer only")
    period, width, heads = smallest_period(windows), settings("d_model"), settings("encoder_attention_heads")
    section = seq2seq_config(encoder=("longformer",) * period, decoder=("full",))
    section.update(
        d_model=width,
        d_ff=settings("encoder_ffn_dim"),
        n_heads=heads,
        head_dim=width // heads,
        cross_heads=heads,
        cross_head_dim=width // heads,
        norm="post",
        norm_epsilon=1e-5,
        embedding_norm=True,
        activation=settings.activation("activation_function", "gelu"),
        dropout=float(settings("dropout", 0.1)),
        hidden_dropout=float(settings("activation_dropout", 0.0)),
        attention_dropout=float(settings("attention_dropout", 0.0)),
    )
    section.encoder.longformer.update(
        window=tuple(width // 2 for width in windows[:period]), use_bias=True, max_global=MAX_GLOBAL
    )
    section.decoder.full.use_bias = True
    for side in sides:
        section[side].update(n_layers=settings(f"{side}_layers"), positions="learned")
        section[side].learned.update(length=settings(f"max_{side}_position_embeddings"), offset=0)
    return section


def write(section: ConfigDict, vocab_size: int) -> dict:
    """`config.json`."""
    windows = tuple(section.encoder.longformer.window)
    of_sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (
            ("layers", section[side].n_layers),
            ("ffn_dim", section.d_ff),
            ("attention_heads", section.n_heads),
        )
    }
    return of_sides | {
        "model_type": MODEL_TYPE,
        "architectures": ["LEDForConditionalGeneration"],
        "vocab_size": vocab_size,
        "d_model": section.d_model,
        "attention_window": [2 * w for w in windows * (section.encoder.n_layers // len(windows))],
        "activation_function": foreign_activation(section.activation),
        "max_encoder_position_embeddings": section.encoder.learned.length,
        "max_decoder_position_embeddings": section.decoder.learned.length,
        "dropout": section.dropout,
        "activation_dropout": max(section.hidden_dropout, 0.0),
        "attention_dropout": section.attention_dropout,
        "torch_dtype": "float32",
    }


def layout(section: ConfigDict, vocab_size: int) -> Layout:
    """Names and axes."""
    rules = [
        Rule("shared.weight", "vocabulary/embedding/embedding"),
        Rule("final_logits_bias", "vocabulary/bias", reshaped(1, vocab_size)),
    ]
    for side in ("encoder", "decoder"):
        theirs, ours = f"{side}.layers.{{layer}}.", f"{side}/stack/period/"
        mixing, feeding = ours + "mixing_{block}/", ours + "feeding_{block}/"
        rules.append(Rule(f"{side}.embed_positions.weight", f"{side}/positions/table"))
        rules += norm(f"{side}.layernorm_embedding", f"{side}/input_norm")
        of_layers = [
            *norm(f"{theirs}self_attn_layer_norm", f"{mixing}norm"),
            *dense(f"{theirs}fc1", f"{feeding}feed_forward/inner"),
            *dense(f"{theirs}fc2", f"{feeding}feed_forward/outer"),
            *norm(f"{theirs}final_layer_norm", f"{feeding}norm"),
        ]
        if side == "encoder":
            for name in ("query", "key", "value"):
                for kind in (name, f"{name}_global"):
                    of_layers += _heads(f"{LONGFORMER}{kind}", f"{mixing}mixer/{kind}")
            of_layers += dense(f"{theirs}self_attn.output", f"{mixing}mixer/out", inputs=2)
        else:
            crossing = ours + "crossing_{block}/"
            of_layers += norm(f"{theirs}encoder_attn_layer_norm", f"{crossing}norm")
            for attention, half in (("self_attn", mixing), ("encoder_attn", crossing)):
                for name in ("query", "key", "value"):
                    of_layers += _heads(f"{theirs}{attention}.{name[0]}_proj", f"{half}mixer/{name}")
                of_layers += dense(f"{theirs}{attention}.out_proj", f"{half}mixer/out", inputs=2)
        stack = (section[side].n_layers, len(section[side].pattern))
        rules += [replace(rule, stack=stack) for rule in of_layers]
    return Layout(
        what=f"an LED of {section.encoder.n_layers} and {section.decoder.n_layers} layers of width {section.d_model}",
        rules=tuple(rules),
        n_layers=0,
        period=1,
        prefix="led.",
        outside=("lm_head.", "final_logits_bias"),
        aliases={name: "shared.weight" for name in (*EMBEDDINGS, "lm_head.weight")},
    )


EMBEDDINGS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def _heads(theirs: str, ours: str) -> list[Rule]:
    return [Rule(f"{theirs}.weight", f"{ours}/kernel", linear()), Rule(f"{theirs}.bias", f"{ours}/bias", FLAT)]


def _flat(section: ConfigDict) -> dict:
    """The fields that say what the model computes, those of blocks spelt out for each layer."""
    common = {name: value for name, value in section.items() if name not in ("encoder", "decoder")}
    flat = {}
    for side in ("encoder", "decoder"):
        fields = by_layer(ConfigDict(common | dict(section[side])))
        flat |= {f"{side}.{name}": value for name, value in fields.items() if not name.startswith(INDIFFERENT)}
    return flat
