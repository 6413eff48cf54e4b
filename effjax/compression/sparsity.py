"""How much is pruned, where and when: schedules and distributions, as tables of counts made before training."""

import math

import numpy as np

from effjax.errors import UserError

DISTRIBUTIONS = ("uniform", "global", "erk")


def cubic_sparsities(final: float, steps: int, initial: float = 0.0) -> np.ndarray:
    """`s_i = s_f + (s_0 - s_f) (1 - i / steps)^3` for i = 0 … steps; `[s_f]` for no steps.

    Args:
      final: s_f, in [0, 1).
      steps: prunings after the first.
      initial: s_0 of the first pruning, from 0 to s_f.

    Raises:
      UserError: a sparsity outside [0, 1), or an initial one that is more than the final one.

    Source: Zhu & Gupta 2017 (1710.01878), equation 1.
    """
    check_sparsity(final)
    check_sparsity(initial)
    if initial > final:
        raise UserError(f"initial sparsity {initial}; no more than the final one, {final}, is allowed")
    if steps == 0:
        return np.array([final])
    done = 1.0 - (1.0 - np.arange(steps + 1) / steps) ** 3
    return done * final + (1.0 - done) * initial  # both ends exact


def check_sparsity(sparsity: float) -> None:
    """Raises UserError outside [0, 1)."""
    if not 0 <= sparsity < 1:
        raise UserError(f"sparsity {sparsity}; 0 or more and less than 1 is allowed")


def erk_densities(shapes: list[tuple[int, ...]], sparsity: float) -> np.ndarray:
    """`density_l = min(1, eps sum(dims_l) / prod(dims_l))`, eps such that all together have density 1 - s.

    Args:
      shapes: of the kernels.
      sparsity: s.

    Source: Mocanu et al. 2018 (1707.04780); Evci et al. 2020 (1911.11134), section 3.
    """
    sizes = np.array([math.prod(shape) for shape in shapes], np.float64)
    raw = np.array([sum(shape) / math.prod(shape) for shape in shapes])
    dense = np.zeros(len(shapes), bool)
    while True:
        rest = (1.0 - sparsity) * sizes.sum() - sizes[dense].sum()
        eps = rest / (raw * sizes)[~dense].sum() if not dense.all() else 0.0
        full = ~dense & (eps * raw > 1.0)
        if not full.any():
            return np.where(dense, 1.0, eps * raw)
        dense |= full


def kept_counts(shapes: list[tuple[int, ...]], units: list[int], sparsity: float, distribution: str) -> np.ndarray:
    """How many units each kernel keeps, at least one: `n - round(s_l n)`; of "global" one count for all together.

    Args:
      shapes: of the kernels, layer by layer.
      units: n, how many units (weights, blocks, heads) each has.
      sparsity: s of all together.
      distribution: "uniform" (the same everywhere), "global" (wherever scores are least) or "erk".

    Returns:
      int64 `[len(shapes)]`, or `[1]`.
    """
    units = np.asarray(units, np.int64)
    if distribution == "global":
        units, sparsities = np.array([units.sum()]), np.array([sparsity])
    elif distribution == "erk":
        sparsities = 1.0 - erk_densities(shapes, sparsity)
    elif distribution == "uniform":
        sparsities = np.full(len(units), sparsity)
    else:
        raise UserError(f"pruning distribution {distribution!r}; one of {', '.join(DISTRIBUTIONS)} is allowed")
    return np.maximum(1, units - np.round(sparsities * units).astype(np.int64))
