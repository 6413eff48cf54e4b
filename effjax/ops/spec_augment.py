"""SpecAugment: stretches of time and bands of frequency are hidden from a model in training."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key


def spec_augment(
    x: Float[Array, "B T F"],
    padding_mask: Bool[Array, "B T"],
    *,
    key: Key[Array, ""],
    n_frequency_masks: int = 2,
    frequency_width: int = 27,
    n_time_masks: int = 10,
    time_ratio: float = 0.05,
    time_width: int | None = None,
) -> Float[Array, "B T F"]:
    """Sets bands of frequencies and stretches of time, drawn for each utterance, to 0.

    The width of a band is uniform in 0 … frequency_width, that of a stretch in 0 … time_ratio times the utterance's own
    length; their places are uniform too. Frames are expected to be normalised, so that 0 is their mean.

    Args:
      x: features of frames.
      padding_mask: True at real frames, which come first; nothing depends on how many others there are.
      key: of the draws.
      n_frequency_masks, n_time_masks: how many of either.
      frequency_width: F, features; at most all of them.
      time_ratio: p_S, the longest stretch as a share of the utterance.
      time_width: the longest stretch in frames, beside p_S; None: no other bound.

    Returns:
      The masked features.

    Raises:
      ValueError: a count, width or ratio out of range.

    Source: Park et al. 2019 (1904.08779), section 2; p_S: Park et al. 2019 (1912.05533), section 3.2.
    """
    if min(n_frequency_masks, n_time_masks, frequency_width) < 0 or not 0 <= time_ratio <= 1:
        raise ValueError(
            f"n_frequency_masks={n_frequency_masks}, frequency_width={frequency_width}, n_time_masks={n_time_masks}, "
            f"time_ratio={time_ratio}; counts and widths of at least 0 and a ratio within [0, 1] are allowed"
        )
    batch, length, width = x.shape
    frequency_key, time_key = jax.random.split(key)
    lengths = padding_mask.sum(1)
    longest = jnp.floor(lengths * time_ratio).astype(jnp.int32)
    if time_width is not None:
        longest = jnp.minimum(longest, time_width)
    bands = _stretches(frequency_key, n_frequency_masks, jnp.full(batch, min(frequency_width, width)), width, width)
    times = _stretches(time_key, n_time_masks, longest, lengths, length)
    return jnp.where(times[:, :, None] | bands[:, None, :], 0, x)


def _stretches(key, count: int, longest, size, slots: int) -> Bool[Array, "B slots"]:
    """Union of `count` stretches, each `[first, first + width)` within `size`, of `[B]` rows."""
    width_draw, place_draw = jax.random.uniform(key, (2, count, *longest.shape))
    width = jnp.floor(width_draw * (longest + 1)).astype(jnp.int32)
    first = jnp.floor(place_draw * (size - width + 1)).astype(jnp.int32)
    place = jnp.arange(slots)
    inside = (place >= first[..., None]) & (place < (first + width)[..., None])
    return inside.any(0)
