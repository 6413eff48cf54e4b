"""A decoder of real values: it reads a series and tells the distribution of the next value."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from effjax.errors import UserError
from effjax.layers.mixer import at_least_one
from effjax.models.build import decoder_config, make_decoder
from effjax.models.decoder import Decoder, DecoderState
from effjax.ops.distributions import DISTRIBUTIONS

OF_TOKENS = ("embedding", "tie_embeddings", "embedding_scale", "adaptive", "loss_chunk_size")


class Readings(nn.Module):
    """What a vocabulary is to tokens: real vectors to width D and back to the numbers of a distribution.

    Attributes:
      d_model: width D.
      n_numbers: P.
      dtype: dtype of the computation; the numbers are float32.
    """

    d_model: int
    n_numbers: int
    dtype: Any = jnp.float32

    def setup(self):
        self.embedding = nn.Dense(self.d_model, dtype=self.dtype)
        self.head = nn.Dense(self.n_numbers, dtype=jnp.float32)

    def embed(self, x: Float[Array, "B T F"]) -> Float[Array, "B T D"]:
        return self.embedding(x)

    def logits(self, hidden: Float[Array, "B T E"]) -> Float[Array, "B T P"]:
        return self.head(hidden.astype(jnp.float32))


class Forecaster(Decoder):
    """`numbers_t = read_out(stack(W [z_{t-1}; covariates_t; identity] + positions))`, of the distribution of z_t.

    Values are scaled ones (`effjax.ops.series_scale`). Attributes beyond those of `Decoder`, whose tokens are readings:
      n_series: how many series are known; number 0 stands for any other.
      series_dim: width of a series' identity; 0: none.
      distribution: a name of `effjax.ops.distributions.DISTRIBUTIONS`.

    Source: Li et al. 2019 (1907.00235), section 3 and appendix; Salinas et al. 2020 (1704.04110), section 3.
    """

    n_series: int = 0
    series_dim: int = 0
    distribution: str = "gaussian"

    def setup(self):
        super().setup()
        if self.series_dim:
            self.identity = nn.Embed(1 + self.n_series, self.series_dim, dtype=self.dtype)

    def __call__(
        self,
        before: Float[Array, "B T"],
        covariates: Float[Array, "B T C"],
        series: Int[Array, "B"],
        state: DecoderState | None = None,
        **sequence,
    ) -> tuple[Float[Array, "B T P"], DecoderState | None]:
        """The numbers of every value's distribution, float32, and the state after this piece (None without one).

        Args:
          before: the value before each, 0 where there is none.
          covariates: what is known of each step.
          series: 1 + the number of each series, or 0.
          state: what `initial_state` or an earlier piece of the same series gave.
          **sequence: `positions`, `padding_mask`, `deterministic`, as in `effjax.layers.Mixer`.
        """
        features = [before[..., None], covariates]
        if self.series_dim:
            identity = self.identity(series)[:, None]
            features.append(jnp.broadcast_to(identity, (*before.shape, self.series_dim)))
        features = jnp.concatenate([jnp.asarray(feature, self.dtype) for feature in features], axis=-1)
        if (padding_mask := sequence.get("padding_mask")) is not None:
            features = jnp.where(padding_mask[..., None], features, 0)
        hidden, state = self.hidden(features, state, **sequence)
        return self.logits(hidden), state

    def nats(self, values: Float[Array, "B T"], covariates, series, **sequence) -> Float[Array, "B T"]:
        """`-log p(z_t | z_<t)` of scaled values, each read before the next; float32, 0 at padding."""
        there = sequence.get("padding_mask")
        there = jnp.ones(values.shape, bool) if there is None else there
        values = jnp.where(there, values, 0)
        numbers, _ = self(values_before(values), covariates, series, **sequence)
        return jnp.where(there, DISTRIBUTIONS[self.distribution].nats(numbers, values), 0.0)


def values_before(values: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """The value before each, 0 before the first."""
    return jnp.pad(values, ((0, 0), (1, 0)))[:, :-1]


def forecaster_config(pattern: tuple[str, ...] = ("full",)) -> ConfigDict:
    """Every key of a forecaster's `model` section: those of a decoder that are not about tokens, and a forecaster's."""
    config = decoder_config(pattern)
    for key in OF_TOKENS:
        del config[key]
    config.update(n_series=0, series_dim=20, distribution="gaussian")
    return config


def make_forecaster(config: ConfigDict, *, dtype=jnp.float32) -> Forecaster:
    """The forecaster that a `model` section describes.

    Raises:
      UserError: a name that does not exist or a size that does not fit, named with its value and what is allowed.
    """
    if config.distribution not in DISTRIBUTIONS:
        names = ", ".join(DISTRIBUTIONS)
        raise UserError(f"model.distribution={config.distribution!r}; one of {names} is allowed")
    for name in ("n_series", "series_dim"):
        if config[name] < 0:
            raise UserError(f"model.{name}={config[name]}; 0 or more is allowed")
    section = decoder_config(tuple(config.pattern))
    section.update({key: value for key, value in config.items() if key in section})
    decoder = make_decoder(section, vocab_size=1, dtype=dtype)
    readings = functools.partial(Readings, config.d_model, DISTRIBUTIONS[config.distribution].n_numbers)
    return Forecaster(
        readings,
        decoder.stack,
        decoder.make_positions,
        dropout_rate=decoder.dropout_rate,
        dropout_over_time=decoder.dropout_over_time,
        dtype=dtype,
        n_series=config.n_series,
        series_dim=config.series_dim,
        distribution=config.distribution,
    )


def sample_trajectories(
    model: Forecaster,
    params,
    values: Float[Array, "B T"],
    covariates: Float[Array, "B L C"],
    series: Int[Array, "B"],
    *,
    padding_mask,
    n_samples: int,
    keys: Key[Array, "B"],
) -> Float[Array, "B S H"]:
    """Futures of series, drawn step by step: each draw is what the next step is conditioned on.

    The known values are read once; their state is then carried on by every trajectory for itself.

    Args:
      model: a forecaster of causal mixers.
      params: its parameters.
      values: known values, scaled.
      covariates: of the known values and the `H = L - T` steps to come.
      series: as in `Forecaster`.
      padding_mask: `[B, T]`, True at known values that were measured.
      n_samples: trajectories S of each series.
      keys: PRNG key of each series' draws.

    Returns:
      Scaled values of the steps to come.
    """
    at_least_one(n_samples=n_samples)
    (batch, length), total = values.shape, covariates.shape[1]
    apply = functools.partial(model.apply, {"params": params})
    values = jnp.where(padding_mask, values, 0)
    state = model.initial_state(batch, model.dtype, max_length=total)
    _, state = apply(values_before(values), covariates[:, :length], series, state, padding_mask=padding_mask)
    state = repeat_state(model, state, batch, n_samples, max_length=total)
    each = lambda x: jnp.repeat(x, n_samples, axis=0)
    series, last, future = each(series), each(values[:, -1]), each(covariates[:, length:])
    keys = jax.vmap(lambda key: jax.random.split(key, n_samples))(keys).reshape(-1)
    draw = jax.vmap(DISTRIBUTIONS[model.distribution].sample)

    def step(carry, step_inputs):
        before, state = carry
        number, covariates = step_inputs
        numbers, state = apply(before[:, None], covariates[:, None], series, state)
        value = draw(jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number), numbers[:, 0])
        return (value, state), value

    steps = jnp.arange(total - length)
    _, drawn = jax.lax.scan(step, (last, state), (steps, future.swapaxes(0, 1)))
    return drawn.T.reshape(batch, n_samples, -1)


def repeat_state(model: Decoder, state: DecoderState, batch: int, times: int, *, max_length: int) -> DecoderState:
    """The state in which each row stands `times` times, one after the other."""
    make = lambda rows: jax.eval_shape(lambda: model.initial_state(rows, model.dtype, max_length=max_length))

    def repeat(leaf, small, large):
        axis = next((i for i, (m, n) in enumerate(zip(small.shape, large.shape)) if m != n), None)
        return leaf if axis is None else jnp.repeat(leaf, times, axis=axis)

    return jax.tree.map(repeat, state, make(batch), make(2 * batch))
