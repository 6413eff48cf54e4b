"""Wav2Vec2-Conformer's encoder in Hugging Face's layout, with its batch norms' statistics; read and written.

The model's convolutions over raw sound, its projection and its heads have no counterpart here and are left out, as is
the convolution `pos_conv_embed`, which the layout has and its encoder never calls.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from effjax.errors import UserError
from effjax.interop.bert import dense, norm
from effjax.interop.rules import FLAT, Form, Layout, Rule, linear, to_ours, to_theirs
from effjax.interop.settings import Settings, foreign_activation
from effjax.models.conformer import ConformerEncoder

MODEL_TYPE = "wav2vec2-conformer"
LAYER, BLOCK = "layers.{layer}.", "blocks/block/"
NORMS = ("ffn1_layer_norm", "self_attn_layer_norm", "conv_module.layer_norm", "ffn2_layer_norm", "final_layer_norm")
POINTWISE = Form(  # a convolution of one tap, `[out, in, 1]`
    lambda x, shapes: [x[..., 0].T.reshape(shapes[0])], lambda leaves: linear().theirs(leaves)[..., None]
)
DEPTHWISE = Form(lambda x, shapes: [x[:, 0].T], lambda leaves: leaves[0].T[:, None])  # `[D, 1, K]`


def distances(width: int) -> Form:
    """The projection of sinusoids: theirs take turns, sine and cosine; ours come one kind after the other."""
    turns = np.concatenate([np.arange(0, width, 2), np.arange(1, width, 2)])
    return Form(
        lambda x, shapes: [x.T[turns].reshape(shapes[0])],
        lambda leaves: leaves[0].reshape(width, -1)[np.argsort(turns)].T,
    )


def layout(encoder: ConformerEncoder) -> Layout:
    """Names and axes of an encoder's variables."""
    attention, convolution = f"params/{BLOCK}attention/", f"params/{BLOCK}convolution/"
    their_attention, their_convolution = f"{LAYER}self_attn.", f"{LAYER}conv_module."
    statistics = f"batch_stats/{BLOCK}convolution/norm/"
    rules = [
        *norm("layer_norm", "params/norm"),
        *dense(f"{their_attention}linear_out", f"{attention}out", inputs=2),
        Rule(f"{their_convolution}pointwise_conv1.weight", f"{convolution}inner/kernel", POINTWISE),
        Rule(f"{their_convolution}pointwise_conv2.weight", f"{convolution}outer/kernel", POINTWISE),
        Rule(f"{their_convolution}depthwise_conv.weight", f"{convolution}kernel", DEPTHWISE),
        *norm(f"{their_convolution}batch_norm", f"{convolution}norm"),
        Rule(f"{their_convolution}batch_norm.running_mean", f"{statistics}mean"),
        Rule(f"{their_convolution}batch_norm.running_var", f"{statistics}variance"),
    ]
    for name in ("query", "key", "value"):
        theirs = f"{their_attention}linear_{name[0]}"
        rules.append(Rule(f"{theirs}.weight", f"{attention}{name}/kernel", linear()))
        rules.append(Rule(f"{theirs}.bias", f"{attention}{name}/bias", FLAT))
    for i in (1, 2):
        rules += dense(f"{LAYER}ffn{i}.intermediate_dense", f"params/{BLOCK}feed_forward_{i}/inner")
        rules += dense(f"{LAYER}ffn{i}.output_dense", f"params/{BLOCK}feed_forward_{i}/outer")
    for i, name in enumerate(NORMS):
        rules += norm(f"{LAYER}{name}", f"params/{BLOCK}norms_{i}")
    if encoder.position_encoding == "relative":
        rules += [
            Rule(f"{their_attention}linear_pos.weight", f"{attention}distance/kernel", distances(encoder.d_model)),
            Rule(f"{their_attention}pos_bias_u", f"{attention}content_bias"),
            Rule(f"{their_attention}pos_bias_v", f"{attention}position_bias"),
        ]
    return Layout(
        what=f"a Wav2Vec2-Conformer encoder of {encoder.n_layers} layers of width {encoder.d_model}",
        rules=tuple(rules),
        n_layers=encoder.n_layers,
        period=1,
        prefix="encoder.",
        ignored=(r"^pos_conv_embed\.", r"^embed_positions\.inv_freq$", r"batch_norm\.num_batches_tracked$"),
    )


def import_conformer(
    settings: Mapping, tensors: Mapping[str, np.ndarray], *, source: str = "the state dict"
) -> tuple[ConformerEncoder, dict]:
    """Reads the encoder of a Wav2Vec2-Conformer.

    Args:
      settings: its `config.json`.
      tensors: by name, of the encoder alone or of a model around it.
      source: what they come from, for errors.

    Returns:
      `(encoder, variables)`: parameters and batch statistics, float32; `encoder.apply(variables, x)`, `x` `[B, T, D]`.

    Raises:
      UserError: a setting that is not known here, or tensors that do not fit, listed.
    """
    encoder, _, variables = build(Settings(settings, source))
    named = {name.removeprefix("wav2vec2_conformer."): tensor for name, tensor in tensors.items()}
    if any(name.startswith("encoder.") for name in named):  # a whole model, of which the encoder is read
        named = {name.removeprefix("encoder."): x for name, x in named.items() if name.startswith("encoder.")}
    return encoder, to_ours(layout(encoder), named, variables, source=source)


def build(settings: Settings) -> tuple[ConformerEncoder, ConformerEncoder, dict]:
    """`(encoder, encoder, variables)`: what describes the encoder is the encoder; of variables their shapes alone."""
    encoder = _read(settings)
    frames = jax.ShapeDtypeStruct((1, 1, encoder.d_model), jnp.float32)
    return encoder, encoder, jax.eval_shape(encoder.init, jax.random.key(0), frames)


def export_conformer(encoder: ConformerEncoder, variables) -> tuple[dict, dict[str, np.ndarray]]:
    """Writes an encoder as that of a Wav2Vec2ConformerModel, whose other parts the caller has to have.

    Returns:
      `(settings, tensors)`: the encoder's fields of `config.json`, and tensors by name.

    Raises:
      UserError: attributes that no such encoder has, listed.
    """
    settings = {
        "model_type": MODEL_TYPE,
        "architectures": ["Wav2Vec2ConformerModel"],
        "hidden_size": encoder.d_model,
        "num_hidden_layers": encoder.n_layers,
        "num_attention_heads": encoder.n_heads,
        "intermediate_size": encoder.d_ff or 4 * encoder.d_model,
        "hidden_act": foreign_activation(encoder.activation),
        "conv_depthwise_kernel_size": encoder.kernel_size,
        "position_embeddings_type": encoder.position_encoding,
        "layer_norm_eps": encoder.norm_epsilon,
        "hidden_dropout": encoder.dropout_rate,
    }
    again, indifferent = _read(Settings(settings, "the export")), ("parent", "name", "dtype", "remat", "norm_momentum")
    differ = [
        f"{field.name}={getattr(encoder, field.name)!r} ({getattr(again, field.name)!r} there)"
        for field in dataclasses.fields(encoder)
        if field.name not in (*indifferent, "left_chunks", "d_ff")
        and getattr(encoder, field.name) != getattr(again, field.name)
    ]
    if differ:
        raise UserError(f"a {MODEL_TYPE} encoder there is not this one: {'; '.join(differ)}")
    return settings, to_theirs(layout(encoder), variables)


def _read(settings: Settings) -> ConformerEncoder:
    settings.only("model_type", (MODEL_TYPE,), MODEL_TYPE, "Conformers of that layout are read")
    settings.only("position_embeddings_type", ("relative", "rotary"), "relative", "positions are told apart here")
    settings.only("rotary_embedding_base", (10_000,), 10_000, "angles are those of the paper here")
    settings.only("layer_norm_eps", (1e-5,), 1e-5, "the layout's other norms have it whatever this says")
    width, kernel = settings("hidden_size"), settings("conv_depthwise_kernel_size", 31)
    if kernel % 2 == 0:
        raise UserError(f"{settings.source}: config.json has conv_depthwise_kernel_size={kernel}; an odd one only")
    return ConformerEncoder(
        width,
        settings("num_hidden_layers"),
        settings("num_attention_heads"),
        kernel_size=kernel,
        d_ff=settings("intermediate_size"),
        activation=settings.activation("hidden_act", "gelu"),
        position_encoding=settings("position_embeddings_type", "relative"),
        dropout_rate=float(settings("hidden_dropout", 0.1)),
        convolution_bias=False,
        norm_momentum=0.9,
        subsample=False,
        final_norm=True,
    )
