"""Random features of FAVOR+: maps phi with E[phi(x) . phi(y)] = exp(x . y), and the projections behind them."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

GENERALISED = {
    "relu": jax.nn.relu,
    "elu": lambda x: jax.nn.elu(x) + 1,
    "abs": jnp.abs,
    "sigmoid": jax.nn.sigmoid,
}
EXPONENTIAL = ("softmax", "hyperbolic")
KERNELS = (*EXPONENTIAL, "trigonometric", *GENERALISED)
DEFAULT_EPSILON = {"softmax": 1e-6, "hyperbolic": 1e-6, "trigonometric": 0.0}
GENERALISED_EPSILON = 1e-3
SCALINGS = ("gaussian", "constant")


def favor_projection(
    key: Key[Array, ""],
    n_features: int,
    head_dim: int,
    *,
    n_heads: int | None = None,
    orthogonal: bool = True,
    scaling: str = "gaussian",
) -> Float[Array, "*heads M H"]:
    """Draws the rows w_r ~ N(0, I) of a projection, orthogonal to each other within blocks of H rows.

    A block is the Q of a Gaussian matrix G = Q R with each column multiplied by the sign of R's diagonal. Without that
    sign the factorisation's own convention decides which way the rows point, they are not uniform on the sphere, and
    the estimate of exp(x . y) is biased (0.81 of it in eight dimensions where |x + y| is about 1, all signs equal).

    Args:
      key: PRNG key.
      n_features: M, rows.
      head_dim: H, width of a row.
      n_heads: None for one projection that all heads share, else one each.
      orthogonal: False draws all rows independently.
      scaling: lengths of orthogonal rows: "gaussian", those of Gaussian vectors, which keeps every row N(0, I) and the
        estimate unbiased; "constant", sqrt(H), which lowers the variance and biases it.

    Returns:
      [M, H], or [N, M, H] with n_heads; float32.

    Raises:
      ValueError: no features, or an unknown scaling.

    Source: Choromanski et al. 2021 (arXiv 2009.14794), section 2.4; Mezzadri 2007 (math-ph/0609050) for the signs.
    """
    if n_features < 1 or head_dim < 1:
        raise ValueError(f"n_features={n_features}, head_dim={head_dim}; 1 or more is allowed")
    if scaling not in SCALINGS:
        raise ValueError(f"scaling={scaling!r}; one of {', '.join(SCALINGS)} is allowed")
    heads = () if n_heads is None else (n_heads,)
    directions, lengths = jax.random.split(key)
    if not orthogonal:
        return jax.random.normal(directions, (*heads, n_features, head_dim), jnp.float32)
    blocks = -(-n_features // head_dim)
    gaussian = jax.random.normal(directions, (*heads, blocks, head_dim, head_dim), jnp.float32)
    q, r = jnp.linalg.qr(gaussian)
    signs = jnp.where(jnp.diagonal(r, axis1=-2, axis2=-1) < 0, -1.0, 1.0)
    rows = jnp.swapaxes(q * signs[..., None, :], -1, -2).reshape(*heads, blocks * head_dim, head_dim)[
        ..., :n_features, :
    ]
    if scaling == "constant":
        return rows * head_dim**0.5
    norms = jnp.linalg.norm(jax.random.normal(lengths, (*heads, n_features, head_dim), jnp.float32), axis=-1)
    return rows * norms[..., None]


def count_features(kernel: str, projection_rows: int) -> int:
    """Length of phi(x): both signs, or sine and cosine, take a feature each."""
    return 2 * projection_rows if kernel in ("hyperbolic", "trigonometric") else projection_rows


def default_epsilon(kernel: str) -> float:
    """What `epsilon=None` stands for."""
    return DEFAULT_EPSILON.get(kernel, GENERALISED_EPSILON)


def favor_features(
    x: Float[Array, "*rows H"],
    *,
    projection: Float[Array, "M H"] | None,
    kernel: str = "softmax",
    epsilon: float = 0.0,
    peak: Float[Array, "*#rows 1"] | None = None,
) -> tuple[Float[Array, "*rows F"], Float[Array, "*rows"]]:
    """Features u and logarithmic scales c of phi(x) = exp(c) u, with no |u| much above 1 however large x is.

        softmax        phi_r = m^-1/2 exp(w_r . x - |x|^2 / 2)
        hyperbolic     phi = (2m)^-1/2 exp(-|x|^2 / 2) [exp(w_r . x); exp(-w_r . x)]
        trigonometric  phi = m^-1/2 exp(|x|^2 / 2) [cos(w_r . x); sin(w_r . x)]
        others         phi_r = f(w_r . x)

    `epsilon` is added to the features (before m^-1/2): to u for the exponential kernels, so that it is small beside the
    vector's own greatest feature; the scale that it thereby takes part in counts as a constant for the gradient.

    Args:
      x: vectors, already multiplied by the root of the logits' scale.
      projection: rows w_r; None takes the x themselves as w . x.
      kernel: one of `KERNELS`.
      epsilon: see above; none for "trigonometric".
      peak: for the exponential kernels, what the exponent w . x is reduced by instead of its own maximum, as public
        code does: then c is 0, and |x|^2 / 2 stays inside the exponential.

    Returns:
      (u, c), float32 or wider.

    Source: Choromanski et al. 2021 (arXiv 2009.14794), lemmas 1 and 2, section 4 (generalised attention).
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    x = x.astype(wide)
    dots = x if projection is None else jnp.einsum("...h,mh->...m", x, projection.astype(wide))
    if kernel in GENERALISED:
        return GENERALISED[kernel](dots) + epsilon, jnp.zeros(x.shape[:-1], wide)
    half = 0.5 * jnp.sum(x * x, -1, keepdims=True)
    drift = half - lax.stop_gradient(half)  # 0, with the gradient of |x|^2 / 2
    ratio = dots.shape[-1] ** -0.5
    if kernel == "trigonometric":
        lift = ratio * jnp.exp(drift)
        return jnp.concatenate([lift * jnp.cos(dots), lift * jnp.sin(dots)], -1), lax.stop_gradient(half[..., 0])
    if kernel == "hyperbolic":
        dots, ratio = jnp.concatenate([dots, -dots], -1), (2 * dots.shape[-1]) ** -0.5
    if peak is not None:
        return ratio * (jnp.exp(dots - (peak + half)) + epsilon), jnp.zeros(x.shape[:-1], wide)
    peak = lax.stop_gradient(dots.max(-1, keepdims=True))
    return ratio * (jnp.exp(dots - (peak + drift)) + epsilon), (peak - lax.stop_gradient(half))[..., 0]


def exponent_peak(
    x: Float[Array, "*rows H"], *, projection: Float[Array, "M H"] | None, kernel: str
) -> Float[Array, "*rows"]:
    """max_r w_r . x (of both signs for "hyperbolic"), a constant for the gradient; 0 for kernels without exponent."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    x = x.astype(wide)
    if kernel not in EXPONENTIAL:
        return jnp.zeros(x.shape[:-1], wide)
    dots = x if projection is None else jnp.einsum("...h,mh->...m", x, projection.astype(wide))
    dots = jnp.abs(dots) if kernel == "hyperbolic" else dots
    return lax.stop_gradient(dots.max(-1))
