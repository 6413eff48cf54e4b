"""From the `model` section of a configuration to a decoder."""

import functools

import jax.numpy as jnp
from ml_collections import ConfigDict

from effjax.errors import UserError
from effjax.layers import MIXERS, AxialPositions, FeedForward, SinusoidalPositions
from effjax.models.block import Period
from effjax.models.decoder import Decoder
from effjax.models.stack import Stack

# Rules of `training.sharding` for a decoder's parameters: heads and features over `tensor`, the other side over `fsdp`.
DECODER_SHARDING = (
    ("mixer/(query|key|value|query_key)/kernel", ("fsdp", "tensor", None)),
    ("mixer/out/kernel", ("tensor", None, "fsdp")),
    ("feed_forward/inner/kernel", ("fsdp", "tensor")),
    ("feed_forward/inner/bias", ("tensor",)),
    ("feed_forward/outer/kernel", ("tensor", "fsdp")),
    ("embedding/embedding", (None, "fsdp")),
    ("head/kernel", ("fsdp", None)),
)


def decoder_config() -> ConfigDict:
    """Every key of a decoder's `model` section, with its default; `MIXERS` names what `pattern` may hold."""
    return ConfigDict(
        dict(
            d_model=512,
            d_ff=2048,
            n_heads=8,
            head_dim=64,
            n_layers=12,
            pattern=("full",),  # token mixers of the repeating period of blocks
            full=dict(rotary=False),
            local=dict(chunk_size=128, look_back=1, rotary=False),
            lsh=dict(
                chunk_size=64,
                n_hashes=2,
                n_buckets=(),  # even factors of the number of buckets, such as (512,) or (16, 32); () chooses by length
                look_back="circular",
                scaling="unit_keys",
                same_bucket=False,
                correct_duplicates=False,
            ),
            residual="residual",  # "residual", "reversible", "exact"
            remat=False,
            positions="sinusoidal",  # "sinusoidal", "axial", "none"
            axial=dict(shape=(128, 512), dims=(128, 384), init_scale=1.0),
            activation="relu",
            dropout=0.0,
            attention_dropout=0.0,
            ff_chunk_size=0,
            loss_chunk_size=0,
        )
    )


def make_decoder(config: ConfigDict, *, vocab_size: int, dtype=jnp.float32) -> Decoder:
    """The decoder that a `model` section describes.

    Raises:
      UserError: a name that does not exist or a size that does not fit, named with its value and what is allowed.
    """
    period, pattern = len(config.pattern), tuple(config.pattern)
    unknown = [name for name in pattern if name not in MIXERS]
    if unknown or not pattern:
        raise UserError(f"model.pattern={pattern} must name one or more of {', '.join(sorted(MIXERS))}")
    if config.n_layers < 1 or config.n_layers % period:
        blocks = f"the {period} blocks of model.pattern"
        raise UserError(f"model.n_layers={config.n_layers} must be a positive multiple of {blocks}")
    mixers = tuple(mixer_maker(config, name) for name in pattern)
    feed_forward = functools.partial(
        FeedForward,
        config.d_model,
        config.d_ff,
        activation=config.activation,
        dropout_rate=config.dropout,
        chunk_size=config.ff_chunk_size,
    )
    try:
        make_positions = positions_maker(config)
        for make in (*mixers, feed_forward, *filter(None, [make_positions])):
            make(dtype=dtype)  # modules check their settings when they are made
        blocks = Period(mixers, feed_forward, dropout_rate=config.dropout, dtype=dtype)
        return Decoder(
            vocab_size,
            config.d_model,
            Stack(blocks, config.n_layers // period, residual=config.residual, remat=config.remat),
            make_positions,
            dropout_rate=config.dropout,
            loss_chunk_size=config.loss_chunk_size,
            dtype=dtype,
        )
    except ValueError as error:
        raise UserError(f"model: {error}") from error


def mixer_maker(config: ConfigDict, name: str):
    """Constructor of one token mixer from the section of its name."""
    options = dict(config[name])
    if name == "lsh":
        options["n_buckets"] = tuple(options["n_buckets"]) or None
    return functools.partial(
        MIXERS[name],
        d_model=config.d_model,
        n_heads=config.n_heads,
        head_dim=config.head_dim,
        dropout_rate=config.attention_dropout,
        **options,
    )


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
    raise UserError(f"model.positions={config.positions!r}; one of 'sinusoidal', 'axial', 'none' is allowed")
