"""From the `model` section of a configuration to a decoder or an encoder."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from effjax.errors import UserError
from effjax.layers import (
    MIXERS,
    AdaptiveVocabulary,
    AxialPositions,
    FactorisedPositions,
    FeedForward,
    LearnedPositions,
    Mixer,
    SinusoidalPositions,
    Vocabulary,
)
from effjax.models.block import Half, Period
from effjax.models.decoder import Decoder
from effjax.models.encoder import Encoder
from effjax.models.stack import Stack

# Rules of `training.sharding` for a decoder's parameters: heads and features over `tensor`, the other side over `fsdp`.
DECODER_SHARDING = (
    ("mixer/(attention/)?(query|key|value|query_key|distance)(_global)?/kernel", ("fsdp", "tensor", None)),
    ("mixer/(attention/)?out/kernel", ("tensor", None, "fsdp")),
    ("mixer/(convolution/)?inner/kernel", ("tensor",)),
    ("mixer/(convolution/)?outer/kernel", ("tensor", "fsdp")),
    ("feed_forward/inner/kernel", ("fsdp", "tensor")),
    ("feed_forward/inner/bias", ("tensor",)),
    ("feed_forward/outer/kernel", ("tensor", "fsdp")),
    (r"embedding/embedding|vocabulary/table_\d+", (None, "fsdp")),
    ("head/kernel", ("fsdp", None)),
)


# What BERT and its descendants have around the stack: kinds of tokens, a norm of embeddings, a transform of the head.
BERT = dict(token_types=0, embedding_norm=False, head_transform="")
BERT_OPTIONS = {"token_types": "n_token_types", "embedding_norm": "embedding_norm"}  # attributes of the model


def decoder_config(pattern: tuple[str, ...] = ("full",)) -> ConfigDict:
    """Every key of a decoder's `model` section, with its default.

    Args:
      pattern: token mixers of the repeating period of blocks, names of `effjax.layers.MIXERS`. Each has a section of
        its name with the attributes of its class; an attribute that usually differs from block to block
        (`Mixer.per_block`) is a tuple there, of one value for all blocks or of one per block of the pattern.

    Raises:
      UserError: a name that does not exist.
    """
    check_pattern(pattern)
    return ConfigDict(
        dict(
            d_model=512,
            d_ff=2048,
            n_heads=8,
            head_dim=64,
            n_layers=12,
            pattern=tuple(pattern),
            **{name: mixer_section(name) for name in sorted(set(pattern))},
            residual="residual",  # "residual", "reversible", "exact"
            norm="pre",  # "pre", "post"
            norm_epsilon=1e-6,
            remat=False,
            positions="sinusoidal",  # "sinusoidal", "axial", "factorised", "learned", "none"
            axial=dict(shape=(128, 512), dims=(128, 384), init_scale=1.0),
            factorised=dict(shape=(128, 128), init_scale=1.0),
            learned=dict(length=512, offset=0, init_scale=0.02),
            **BERT,
            embedding="full",  # "full", "adaptive"
            tie_embeddings=False,  # of "full"; an adaptive one is tied
            embedding_scale=1.0,
            adaptive=dict(cutoffs=(20_000, 40_000, 200_000), div=1, d_embed=0, tie_head=False),
            activation="relu",
            dropout=0.0,
            hidden_dropout=-1.0,  # of the feed-forward networks' hidden layers; below 0: dropout
            attention_dropout=0.0,
            dropout_over_time=True,  # one dropout mask for all positions, as in trax
            init=(),  # pairs (path regex, standard deviation), see effjax.models.initial
            ff_chunk_size=0,
            loss_chunk_size=0,
        )
    )


def check_pattern(pattern: tuple[str, ...]) -> None:
    """Raises UserError where a pattern is empty or names a mixer that does not exist."""
    if not pattern or any(name not in MIXERS for name in pattern):
        raise UserError(f"model.pattern={tuple(pattern)} must name one or more of {', '.join(sorted(MIXERS))}")


def mixer_section(name: str) -> ConfigDict:
    """The attributes that a mixer has beyond those of every mixer, with their defaults."""
    own = {field.name: field.default for field in dataclasses.fields(MIXERS[name])}
    common = {field.name for field in dataclasses.fields(Mixer)} | {"implementation", *MIXERS[name].adaptive}
    per_block = MIXERS[name].per_block
    own = {key: value for key, value in own.items() if key not in common and not callable(value)}
    return ConfigDict({key: (value,) if key in per_block else value for key, value in own.items()})


def encoder_config(pattern: tuple[str, ...] = ("full",)) -> ConfigDict:
    """As `decoder_config`, for an encoder: mixers that may be causal or not are not."""
    config = decoder_config(pattern)
    for name in set(pattern):
        if "causal" in config[name]:
            config[name].causal = False
    return config


def make_decoder(config: ConfigDict, *, vocab_size: int, dtype=jnp.float32) -> Decoder:
    """The decoder that a `model` section describes.

    Raises:
      UserError: a name that does not exist or a size that does not fit, named with its value and what is allowed.
    """

    return assemble(Decoder, must_stream, config, vocabulary_maker(config, vocab_size), dtype)


def make_encoder(config: ConfigDict, *, vocab_size: int, dtype=jnp.float32) -> Encoder:
    """The encoder that a `model` section describes.

    Raises:
      UserError: as `make_decoder`; a mixer that is causal.
    """

    return assemble(Encoder, must_see_both_sides, config, vocabulary_maker(config, vocab_size), dtype)


def must_stream(mixer: Mixer) -> None:
    """Raises ValueError where a mixer sees the future: it has no state, and says so."""
    jax.eval_shape(lambda: mixer.initial_state(1, max_length=1))


def must_see_both_sides(mixer: Mixer) -> None:
    """Raises ValueError where a mixer is causal."""
    if getattr(mixer, "causal", True):
        raise ValueError(f"{type(mixer).__name__} is causal: an encoder needs mixers with causal=False")


def assemble(kind, check, config, vocabulary, dtype, *, make_cross=None, **options):
    """A model of a kind, each of whose mixers has passed a check.

    Args:
      kind: `Decoder` or a subclass.
      check: called with every mixer; raises ValueError.
      config: a `model` section.
      vocabulary: constructor of the embedding and the read-out, or None.
      dtype: dtype of the computation.
      make_cross: constructor of the attention to a source, or None.
      **options: further attributes of the model.

    Raises:
      UserError: a name that does not exist or a size that does not fit.
    """
    period, pattern = len(config.pattern), tuple(config.pattern)
    check_pattern(pattern)
    if config.n_layers < 1 or config.n_layers % period:
        blocks = f"the {period} blocks of model.pattern"
        raise UserError(f"model.n_layers={config.n_layers} must be a positive multiple of {blocks}")
    mixers = tuple(mixer_maker(config, block) for block in range(period))
    feed_forward = functools.partial(
        FeedForward,
        config.d_model,
        config.d_ff,
        activation=config.activation,
        dropout_rate=config.dropout if config.hidden_dropout < 0 else config.hidden_dropout,
        dropout_over_time=config.dropout_over_time,
        chunk_size=config.ff_chunk_size,
    )
    dropout = dict(dropout_rate=config.dropout, dropout_over_time=config.dropout_over_time, dtype=dtype)
    try:
        make_positions = positions_maker(config)
        for make in (*mixers, feed_forward, *filter(None, [vocabulary, make_positions, make_cross])):
            make(dtype=dtype)  # modules check their settings when they are made
        for make in mixers:
            check(make(dtype=dtype))
        Half(norm=config.norm)
        norm = dict(norm=config.norm, epsilon=config.norm_epsilon)
        blocks = Period(mixers, feed_forward, make_cross=make_cross, **norm, **dropout)
        stack = Stack(blocks, config.n_layers // period, residual=config.residual, remat=config.remat)
        stack.shared_params()
        options |= {ours: config.get(name, BERT[name]) for name, ours in BERT_OPTIONS.items()}
        return kind(vocabulary, stack, make_positions, **dropout, **options)
    except ValueError as error:
        raise UserError(f"model: {error}") from error


def mixer_maker(config: ConfigDict, block: int):
    """Constructor of the token mixer of one block of the pattern, from the section of its name."""
    name, n_blocks = config.pattern[block], len(config.pattern)
    if name not in config:
        raise UserError(
            f"model.pattern names {name!r}, for which the configuration has no section: start it from "
            f"decoder_config(pattern={tuple(config.pattern)})"
        )
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in config[name].items()}
    for key in MIXERS[name].per_block:
        values = options[key]
        if not isinstance(values, tuple) or len(values) not in (1, n_blocks):
            raise UserError(
                f"model.{name}.{key}={values!r}; a tuple of one value, or of one for each of the {n_blocks} blocks of "
                "model.pattern, is allowed"
            )
        options[key] = values[block % len(values)]
    return functools.partial(
        MIXERS[name],
        d_model=config.d_model,
        n_heads=config.n_heads,
        head_dim=config.head_dim,
        dropout_rate=config.attention_dropout,
        **options,
    )


def vocabulary_maker(config: ConfigDict, vocab_size: int):
    """Constructor of the embedding and the read-out."""
    common = dict(scale=config.embedding_scale, loss_chunk_size=config.loss_chunk_size)
    if config.embedding == "full":
        options = dict(tied=config.tie_embeddings, epsilon=config.norm_epsilon)
        options["transform"] = config.get("head_transform", BERT["head_transform"])
        return functools.partial(Vocabulary, vocab_size, config.d_model, **options, **common)
    if config.embedding == "adaptive":
        if config.residual != "residual":
            raise UserError(
                f"model.embedding='adaptive' with model.residual={config.residual!r}: two streams are twice as wide "
                "as the embeddings that they would be read out with; 'residual' is allowed"
            )
        options = dict(config.adaptive) | {"cutoffs": tuple(config.adaptive.cutoffs)}
        return functools.partial(AdaptiveVocabulary, vocab_size, config.d_model, **options, **common)
    raise UserError(f"model.embedding={config.embedding!r}; 'full' or 'adaptive' is allowed")


def positions_maker(config: ConfigDict):
    """Constructor of the positions added to embeddings, or None."""
    if config.positions == "none":
        return None
    if config.positions == "sinusoidal":
        return functools.partial(SinusoidalPositions, config.d_model)
    if config.positions == "axial":
        shape, dims = tuple(config.axial.shape), tuple(config.axial.dims)
        if sum(dims) != config.d_model:
            raise UserError(f"model.axial.dims={dims} must add up to model.d_model={config.d_model}")
        return functools.partial(AxialPositions, shape, dims, init_scale=config.axial.init_scale)
    if config.positions == "factorised":
        shape = tuple(config.factorised.shape)
        return functools.partial(FactorisedPositions, config.d_model, shape, init_scale=config.factorised.init_scale)
    if config.positions == "learned":
        return functools.partial(LearnedPositions, config.d_model, **config.learned)
    allowed = "'sinusoidal', 'axial', 'factorised', 'learned', 'none'"
    raise UserError(f"model.positions={config.positions!r}; one of {allowed} is allowed")
