"""How well random features estimate softmax attention, on the queries and keys that a model has on a real text."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.ticker import LogLocator

from effjax.layers import PerformerAttention
from effjax.ops.favor_features import GENERALISED, default_epsilon, favor_features, favor_projection
from effjax.pictures.figure import PALETTE, Picture, new_figure
from effjax.pictures.subject import Subject

COUNTS = (16, 32, 64, 128, 256, 512, 1024)
DRAWS = 8
MOST_LAYERS = len(PALETTE)


def draw_errors(subject: Subject, name: str) -> list[Picture]:
    """The error of FAVOR+ in every layer, over the number of features."""
    mixers = [subject.mixers[block] for block in subject.blocks(name)]
    if not isinstance(mixers[0], PerformerAttention):
        return []
    if mixers[0].kernel in GENERALISED:
        remark = (
            f"{name}: every position sees all before it; features of kernel {mixers[0].kernel!r} estimate no softmax"
        )
        return [Picture(name, None, remark)]
    counts = tuple(sorted({*COUNTS, *(mixer.n_features for mixer in mixers)}))
    curves = {}
    for block, mixer in zip(subject.blocks(name), mixers):
        q, k, v = heads_of(mixer, subject.mixer_params(block), subject.inside[block]["inputs"])
        curves |= zip(subject.layers(block), favor_errors(mixer, q, k, v, counts=counts))
    return [Picture(f"{name}_error", _figure(subject, name, mixers[0], counts, dict(sorted(curves.items()))))]


def heads_of(mixer: PerformerAttention, params, inputs: Float[Array, "L B T D"]):
    """Queries, keys and values `[L, T, N, H]` of the first example in each of L layers that share one body."""

    def project(mixer, x):
        q, k, v = mixer.project(x, None, None)
        return q, *mixer.for_each_query_head(k, v)

    one = lambda params, x: mixer.apply({"params": params}, x[:1], method=project)
    return tuple(x[:, 0] for x in jax.jit(jax.vmap(one))(params, inputs))


def favor_errors(
    mixer: PerformerAttention,
    q: Float[Array, "L T N H"],
    k: Float[Array, "L T N H"],
    v: Float[Array, "L T N H"],
    *,
    counts: tuple[int, ...],
    draws: int = DRAWS,
) -> np.ndarray:
    """Relative error of attention by random features, |estimate - exact| / |exact| over all heads and positions.

    The features are those of the mixer; what they are summed into has no chunks here, but a weight for every pair.
    Fewer features are the first rows of more.

    Args:
      mixer: whose kernel, epsilon and way of drawing projections are taken.
      q, k, v: queries, keys and values of L layers.
      counts: rows of the projection to try, in increasing order.
      draws: projections to try.

    Returns:
      `[L, counts, draws]`.
    """
    draw = functools.partial(
        favor_projection,
        n_features=counts[-1],
        head_dim=mixer.head_dim,
        n_heads=mixer.n_heads,
        orthogonal=mixer.orthogonal,
        scaling=mixer.scaling,
    )
    projections = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), draws))
    if not mixer.per_head:
        projections = jnp.broadcast_to(projections[:, :1], projections.shape)
    epsilon = default_epsilon(mixer.kernel) if mixer.epsilon is None else mixer.epsilon
    errors, norms = _squares(q, k, v, projections, tuple(counts), mixer.kernel, epsilon, mixer.causal)
    return np.asarray(jnp.sqrt(errors.sum(1) / norms.sum(1)[:, None, None])).swapaxes(1, 2)


@functools.partial(jax.jit, static_argnums=(4, 5, 6, 7))
def _squares(q, k, v, projections, counts, kernel, epsilon, causal):
    """Squared errors `[L, N, draws, counts]` and squared norms `[L, N]`, one layer and head at a time."""
    length, width = q.shape[1], q.shape[3]
    seen = jnp.tri(length, dtype=bool) if causal else jnp.ones((length, length), bool)
    features = functools.partial(favor_features, kernel=kernel, epsilon=epsilon)

    def head(arrays):
        q, k, v, projections = arrays
        q, k, v = (x.astype(jnp.float32) * scale for x, scale in ((q, width**-0.25), (k, width**-0.25), (v, 1.0)))
        exact = jax.nn.softmax(jnp.where(seen, q @ k.T, -jnp.inf)) @ v

        def draw(rows):
            (of_q, _), (of_k, scale) = features(q, projection=rows), features(k, projection=rows)
            cut = lambda x, a, b: x.reshape(length, -1, counts[-1])[..., a:b].reshape(length, -1)
            scale = jnp.where(seen, scale, -jnp.inf)  # that of the query cancels
            scale = jnp.exp(scale - scale.max(-1, keepdims=True))
            weights, errors = 0.0, []
            for a, b in itertools.pairwise((0, *counts)):
                weights += cut(of_q, a, b) @ cut(of_k, a, b).T * scale
                estimate = weights @ v / weights.sum(-1, keepdims=True)
                errors.append(jnp.sum((estimate - exact) ** 2))
            return jnp.stack(errors)

        return jax.lax.map(draw, projections), jnp.sum(exact**2)

    by_head = [x.swapaxes(1, 2) for x in (q, k, v)]
    of_heads = projections.swapaxes(0, 1)
    return jax.lax.map(lambda layer: jax.lax.map(head, (*layer, of_heads)), tuple(by_head))


def _figure(subject, name, mixer, counts, curves):
    """Mean error and the range over projections, of a few layers."""
    layers = list(curves)
    if len(layers) > MOST_LAYERS:
        layers = [layers[round(i * (len(layers) - 1) / (MOST_LAYERS - 1))] for i in range(MOST_LAYERS)]
    kind = f"{'orthogonal' if mixer.orthogonal else 'independent'} rows, kernel {mixer.kernel}"
    title = (
        f"{name}: error of FAVOR+ against exact softmax attention, {subject.origin}\n"
        f"{kind}, {DRAWS} projections each\n{subject.text}"
    )
    figure = new_figure(9, 6.2, title)
    axes = figure.add_subplot()
    for layer, colour, marker in zip(layers, PALETTE, "os^Dv<>"):
        errors = curves[layer]
        axes.fill_between(counts, errors.min(1), errors.max(1), color=colour, alpha=0.2, linewidth=0)
        axes.plot(counts, errors.mean(1), color=colour, marker=marker, markersize=4, label=f"layer {layer}")
    start = max(curve.mean(1)[0] for curve in curves.values())
    slope = [start * (counts[0] / count) ** 0.5 for count in counts]
    axes.plot(counts, slope, color="#888888", linestyle=":", label="∝ 1 / √features")
    axes.axvline(mixer.n_features, color="#444444", linestyle="--", linewidth=1, label="the model's features")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(counts, [f"{count:,}" for count in counts], fontsize=8)
    axes.set_xlabel("random features (rows of the projection)")
    axes.set_ylabel("relative error of the output\nmean, and range over projections")
    axes.grid(alpha=0.3, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure
