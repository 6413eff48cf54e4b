"""Reformer's language models, causal or masked, in Hugging Face's layout; read only.

Local and LSH layers, axial or plain learned positions, reversible residuals whose two streams the head reads. Hash
rotations are no weights: there they are drawn in every forward pass, here from `config.model.lsh.hash_seed`.
"""

from ml_collections import ConfigDict

from effjax.errors import UserError
from effjax.interop.architecture import Architecture
from effjax.interop.bert import FEEDING, MIXING, dense, norm
from effjax.interop.rules import Layout, Rule, linear, reshaped, smallest_period
from effjax.interop.settings import Settings
from effjax.models.build import decoder_config, encoder_config

LAYER = "encoder.layers.{layer}."
PROJECTIONS = {"local": ("query", "key", "value"), "lsh": ("query_key", "value")}


def read(settings: Settings, names: frozenset[str]) -> ConfigDict:
    """The model section."""
    layers, causal = tuple(settings("attn_layers")), settings("is_decoder", False)
    if not layers or set(layers) - set(PROJECTIONS):
        raise UserError(f"{settings.source}: config.json has attn_layers={list(layers)}; 'local' and 'lsh' are allowed")
    settings.only("tie_word_embeddings", (False,), False, "the head reads both streams, twice the embeddings' width")
    pattern = layers[: smallest_period(layers)]
    model = (decoder_config if causal else encoder_config)(pattern)
    model.update(
        d_model=settings("hidden_size"),
        d_ff=settings("feed_forward_size"),
        n_heads=settings("num_attention_heads"),
        head_dim=settings("attention_head_size"),
        n_layers=len(layers),
        residual="reversible",
        norm_epsilon=float(settings("layer_norm_eps", 1e-12)),
        activation=settings.activation("hidden_act", "relu"),
        dropout=float(settings("hidden_dropout_prob", 0.05)),
        attention_dropout=_one_dropout(settings, pattern),
        dropout_over_time=False,
    )
    if "local" in pattern:
        model.local.update(
            chunk_size=settings("local_attn_chunk_length", 64),
            look_back=settings("local_num_chunks_before", 1),
            look_ahead=settings("local_num_chunks_after", 0),
        )
    if "lsh" in pattern:
        settings.only("lsh_num_chunks_before", (1,), 1, "a sorted chunk sees itself and the one before it here")
        settings.only("lsh_num_chunks_after", (0,), 0, "a sorted chunk sees itself and the one before it here")
        buckets = settings("num_buckets", None)
        model.lsh.update(chunk_size=settings("lsh_attn_chunk_length", 64), n_hashes=settings("num_hashes", 1))
        with model.ignore_type():
            model.lsh.n_buckets = tuple(buckets) if isinstance(buckets, list) else buckets
    if settings("axial_pos_embds", True):
        model.positions = "axial"
        model.axial.update(
            shape=tuple(settings("axial_pos_shape")),
            dims=tuple(settings("axial_pos_embds_dim")),
            init_scale=float(settings("axial_norm_std", 1.0)),
        )
    else:
        model.positions = "learned"
        model.learned.length = settings("max_position_embeddings")
    return model


def layout(model: ConfigDict) -> Layout:
    """Names and axes."""
    rules = [
        Rule("embeddings.word_embeddings.weight", "vocabulary/embedding/embedding"),
        *norm("encoder.layer_norm", "norm"),
        *dense("lm_head.decoder", "vocabulary/head")[:1],
        Rule("lm_head.bias", "vocabulary/head/bias"),
    ]
    if model.positions == "axial":
        for axis, (n, width) in enumerate(zip(model.axial.shape, model.axial.dims)):
            grid = [n if i == axis else 1 for i in range(len(model.axial.shape))]
            name = f"embeddings.position_embeddings.weights.{axis}"
            rules.append(Rule(name, f"positions/axis_{axis}", reshaped(*grid, width)))
    else:
        rules.append(Rule("embeddings.position_embeddings.embedding.weight", "positions/table"))
    for block, kind in enumerate(model.pattern):
        for name in PROJECTIONS[kind]:
            theirs = f"{LAYER}attention.self_attention.{name}.weight"
            rules.append(Rule(theirs, f"{MIXING}mixer/{name}/kernel", linear(), block))
    rules += [
        Rule(f"{LAYER}attention.output.dense.weight", f"{MIXING}mixer/out/kernel", linear(2)),
        *norm(f"{LAYER}attention.layer_norm", f"{MIXING}norm"),
        *dense(f"{LAYER}feed_forward.dense.dense", f"{FEEDING}feed_forward/inner"),
        *dense(f"{LAYER}feed_forward.output.dense", f"{FEEDING}feed_forward/outer"),
        *norm(f"{LAYER}feed_forward.layer_norm", f"{FEEDING}norm"),
    ]
    return Layout(
        what=f"a Reformer of {model.n_layers} layers of width {model.d_model}",
        rules=tuple(rules),
        n_layers=model.n_layers,
        period=len(model.pattern),
        prefix="reformer.",
        outside=("lm_head.",),
        aliases={"lm_head.decoder.bias": "lm_head.bias"},
        ignored=(r"mask_value_float(16|32)$",),
    )


def _one_dropout(settings, pattern) -> float:
    rates = {float(settings(f"{kind}_attention_probs_dropout_prob", 0.0)) for kind in pattern}
    if len(rates) > 1:
        raise UserError(
            f"{settings.source}: config.json has local_ and lsh_attention_probs_dropout_prob of {sorted(rates)}; one "
            "rate for both is allowed: edit the file, weights do not depend on it"
        )
    return rates.pop()


REFORMER = Architecture(
    model_type="reformer",
    mixers=frozenset(PROJECTIONS),
    task=lambda settings: "language_modelling" if settings("is_decoder", False) else "masked_language_modelling",
    read=read,
    layout=layout,
)
