"""The location and scale of a series, from the values that a forecast is conditioned on."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

SCALINGS = ("mean_plus_one", "mean_abs", "standardise", "none")


def series_scale(
    values: Float[Array, "B T"], mask: Bool[Array, "B T"], *, scaling: str
) -> tuple[Float[Array, "B 1"], Float[Array, "B 1"]]:
    """`(loc, scale)` of each row, by which `z = (value - loc) / scale` is what a network reads and forecasts.

    - "mean_plus_one": 0 and 1 + the mean of the values that are not 0 (of their magnitudes), for counts and loads.
    - "mean_abs": 0 and the mean magnitude.
    - "standardise": mean and deviation.
    - "none": 0 and 1.

    Where the scale would be 0 it is 1; a deviation is at least 1 % of the mean magnitude, so that a step after a long
    standstill (a currency that was pegged) stays within tens of scales.

    Args:
      values: what is known of each series.
      mask: True at measured values.
      scaling: one of the above.

    Raises:
      ValueError: another name.

    Source: Salinas et al. 2020 (1704.04110), section 3.3, and the pipeline of Li et al. 2019 (1907.00235).
    """
    if scaling not in SCALINGS:
        raise ValueError(f"scaling={scaling!r}; one of {', '.join(SCALINGS)} is allowed")
    values = jnp.where(mask, values, 0.0)
    mean = lambda x, among: jnp.sum(x, 1, keepdims=True) / jnp.maximum(jnp.sum(among, 1, keepdims=True), 1)
    nothing = jnp.zeros_like(values[:, :1])
    if scaling == "none":
        return nothing, nothing + 1.0
    if scaling == "mean_plus_one":
        return nothing, 1.0 + mean(jnp.abs(values), values != 0)
    magnitude = mean(jnp.abs(values), mask)
    if scaling == "mean_abs":
        return nothing, jnp.where(magnitude > 0, magnitude, 1.0)
    loc = mean(values, mask)
    variance = mean(jnp.where(mask, jnp.square(values - loc), 0.0), mask)
    scale = jnp.maximum(jnp.sqrt(variance), 0.01 * magnitude)
    return loc, jnp.where(scale > 0, scale, 1.0)
