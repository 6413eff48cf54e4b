"""Transformer-XL's language model, with a full or an adaptive softmax, in Hugging Face's layout; read only."""

import math

from ml_collections import ConfigDict

from effjax.errors import UserError
from effjax.interop.architecture import Architecture
from effjax.interop.bert import FEEDING, MIXING, dense, norm
from effjax.interop.rules import SAME, Layout, Rule, linear, packed
from effjax.interop.settings import Settings
from effjax.models.build import decoder_config

LAYER = "layers.{layer}."
TABLE = "word_emb.emb_layers.{}.weight"


def read(settings: Settings, names: frozenset[str]) -> ConfigDict:
    """The model section. The memory begins as zeros that are attended to, as there."""
    settings.only("attn_type", (0,), 0, "distances are those of the paper here")
    settings.only("pre_lnorm", (False,), False, "its norms come after the sums")
    settings.only("tie_word_embeddings", (True,), True, "scores are read out with the embeddings here")
    width, cutoffs, div = settings("d_model"), tuple(settings("cutoffs", [])), settings("div_val", 4)
    _check_projections(settings, width, cutoffs, div)
    rate, clamp = float(settings("dropout", 0.1)), settings("clamp_len", 1000)
    model = decoder_config(("transformer_xl",))
    model.update(
        d_model=width,
        d_ff=settings("d_inner"),
        n_heads=settings("n_head"),
        head_dim=settings("d_head"),
        n_layers=settings("n_layer"),
        norm="post",
        norm_epsilon=float(settings("layer_norm_epsilon", 1e-5)),
        positions="none",
        tie_embeddings=True,
        embedding_scale=math.sqrt(width),
        dropout=rate,
        attention_dropout=float(settings("dropatt", 0.0)),
        dropout_over_time=False,
    )
    if cutoffs:
        model.embedding = "adaptive"
        model.adaptive.update(cutoffs=cutoffs, div=div, d_embed=settings("d_embed"))
        if div > 1:
            model.adaptive.tie_head = bool(_tied(settings, cutoffs)[0])
    model.transformer_xl.update(
        memory_length=settings("mem_len"),
        same_length=settings("same_length", True),
        untie_biases=settings("untie_r", True),
        zero_memory=True,
        position_dropout_rate=rate,
    )
    with model.ignore_type():
        model.transformer_xl.clamp_length = clamp if clamp >= 0 else None
    return model


def layout(model: ConfigDict) -> Layout:
    """Names and axes. `qkv_net` holds three projections one below the other, `emb_layers.0` all tables where they are
    equally wide."""
    mixer, rules = f"{MIXING}mixer/", []
    aliases = {f"crit.out_layers.{i}.weight": TABLE.format(i) for i in range(len(model.adaptive.cutoffs) + 1)}
    if model.embedding == "full":
        rules += [
            Rule(TABLE.format(0), "vocabulary/embedding/embedding"),
            Rule("crit.out_layers.0.bias", "vocabulary/bias"),
        ]
    else:
        more, projections = _clusters(model.adaptive)
        rules += more
        aliases |= projections
    for theirs, ours in (("r_w_bias", "content_bias"), ("r_r_bias", "position_bias")):
        if model.transformer_xl.untie_biases:
            rules.append(Rule(f"{LAYER}dec_attn.{theirs}", f"{mixer}{ours}"))
        else:
            rules.append(Rule(theirs, f"shared/{ours}"))
            aliases |= {f"layers.{layer}.dec_attn.{theirs}": theirs for layer in range(model.n_layers)}
    rules += [
        Rule(
            f"{LAYER}dec_attn.qkv_net.weight",
            tuple(f"{mixer}{name}/kernel" for name in ("query", "key", "value")),
            packed(linear()),
        ),
        Rule(f"{LAYER}dec_attn.r_net.weight", f"{mixer}distance/kernel", linear()),
        Rule(f"{LAYER}dec_attn.o_net.weight", f"{mixer}out/kernel", linear(2)),
        *norm(f"{LAYER}dec_attn.layer_norm", f"{MIXING}norm"),
        *dense(f"{LAYER}pos_ff.CoreNet.0", f"{FEEDING}feed_forward/inner"),
        *dense(f"{LAYER}pos_ff.CoreNet.3", f"{FEEDING}feed_forward/outer"),
        *norm(f"{LAYER}pos_ff.layer_norm", f"{FEEDING}norm"),
    ]
    return Layout(
        what=f"a Transformer-XL of {model.n_layers} layers of width {model.d_model}",
        rules=tuple(rules),
        n_layers=model.n_layers,
        period=1,
        prefix="transformer.",
        outside=("crit.",),
        aliases=aliases,
        ignored=(r"pos_emb\.inv_freq$",),
    )


def _clusters(adaptive: ConfigDict):
    """Rules of an adaptive vocabulary, and the other names of its projections."""
    clusters = range(len(adaptive.cutoffs) + 1)
    rules = [
        Rule("crit.cluster_weight", "vocabulary/tail_table"),
        Rule("crit.cluster_bias", "vocabulary/tail_bias"),
    ]
    if adaptive.div == 1:
        for theirs, ours in ((TABLE.format(0), "table"), ("crit.out_layers.0.bias", "bias")):
            rules.append(Rule(theirs, tuple(f"vocabulary/{ours}_{i}" for i in clusters), packed(SAME)))
        return rules, {}
    for i in clusters:
        rules += [
            Rule(TABLE.format(i), f"vocabulary/table_{i}"),
            Rule(f"crit.out_layers.{i}.bias", f"vocabulary/bias_{i}"),
            Rule(f"word_emb.emb_projs.{i}", f"vocabulary/projection_{i}"),
        ]
    if not adaptive.tie_head:
        rules.append(Rule("crit.out_projs.0", "vocabulary/head_projection"))
    tied = clusters if adaptive.tie_head else clusters[1:]
    return rules, {f"crit.out_projs.{i}": f"word_emb.emb_projs.{i}" for i in tied}


def _tied(settings, cutoffs) -> list[bool]:
    """Which clusters are read out through the projections of their embeddings."""
    tails = bool(settings("proj_share_all_but_first", True))
    return settings("tie_projs", None) or [False] + [tails] * len(cutoffs)


def _check_projections(settings, width, cutoffs, div):
    """Raises UserError for embeddings of a width that no vocabulary here has."""
    d_embed, where = settings("d_embed", width), f"{settings.source}: config.json has"
    if d_embed != width and (div == 1 or not cutoffs):
        raise UserError(
            f"{where} d_embed={d_embed} with d_model={width}, div_val={div}, cutoffs={list(cutoffs)}; embeddings "
            "narrower than the model are allowed with cutoffs and div_val of 2 or more"
        )
    if not cutoffs and div != 1:
        raise UserError(f"{where} div_val={div} without cutoffs; 1 is allowed")
    if cutoffs and div > 1 and not all(_tied(settings, cutoffs)[1:]):
        raise UserError(
            f"{where} tails with projections of their own for the read-out (tie_projs); shared ones are allowed"
        )


TRANSFORMER_XL = Architecture(
    model_type="transfo-xl",
    mixers=frozenset({"transformer_xl"}),
    task=lambda settings: "language_modelling",
    read=read,
    layout=layout,
)
