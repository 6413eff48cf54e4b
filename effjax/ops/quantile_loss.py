"""Quantile loss, by which probabilistic forecasts are compared."""

from jaxtyping import Array, Float


def quantile_loss(
    value: Float[Array, "*batch"], forecast: Float[Array, "*batch"], *, rho: float
) -> Float[Array, "*batch"]:
    """`P(y, q) = (y - q) (rho - [y <= q])`, least on average where q is the rho-quantile of y.

    The rho-risk of forecasts is `2 sum P / sum |y|`, both sums over all series and steps.

    Args:
      value: what came, y.
      forecast: the quantile that was forecast, q.
      rho: which, between 0 and 1.

    Source: Seeger et al. 2016; Salinas et al. 2020 (1704.04110), section 4.
    """
    return (value - forecast) * (rho - (value <= forecast))
