"""How far back every head looks under adaptive span, and the windows that follow from it."""

import jax
import numpy as np
from matplotlib import colormaps

from effjax.layers import AdaptiveSpanAttention
from effjax.pictures.figure import Picture, new_figure
from effjax.pictures.subject import Subject


def draw_spans(subject: Subject, name: str) -> list[Picture]:
    """The span of every head and layer; where it depends on the text, its mean and its course."""
    blocks = subject.blocks(name)
    mixers = [subject.mixers[block] for block in blocks]
    if not isinstance(mixers[0], AdaptiveSpanAttention):
        return []
    spans = spans_of(subject, name)
    layers = [layer for layer, _ in spans]
    values = np.stack([value for _, value in spans])  # [layers, N] or, of dynamic spans, [layers, T, N]
    pictures = []
    if values.ndim == 3:
        pictures.append(Picture(f"{name}_over_text", _course(subject, name, layers, values, mixers[0].max_span)))
        values = values.mean(1)
    pictures.insert(0, Picture(f"{name}_spans", _figure(subject, name, layers, values, mixers[0])))
    return pictures


def spans_of(subject: Subject, name: str) -> list[tuple[int, np.ndarray]]:
    """Layers, from 1, in order, each with z in tokens: `[N]`, or `[T, N]` where it is computed from the text."""
    spans = []
    for block in subject.blocks(name):
        mixer, params = subject.mixers[block], subject.mixer_params(block)
        if mixer.dynamic:
            one = lambda params, x, mixer=mixer: mixer.apply({"params": params}, x, method="spans")[0]
            values = jax.jit(jax.vmap(one))(params, subject.inside[block]["inputs"])
        else:
            values = mixer.max_span * params["share"]
        spans += zip(subject.layers(block), np.asarray(values, np.float32))
    return sorted(spans, key=lambda item: item[0])


def soft_window(span: np.ndarray, distance: np.ndarray, ramp: int) -> np.ndarray:
    """m_z(x) = clip((R + z - (x - 1)) / R, 0, 1): the factor on the weight of a key at distance x = 1, 2, …"""
    return np.clip((ramp + span - (distance - 1)) / ramp, 0, 1)


def _figure(subject, name, layers, values, mixer):
    """Spans [layers, N] as a table of colours, and the window of every head over the distance."""
    n_layers, n_heads = values.shape
    settings = f"at most {mixer.max_span:,} tokens, ramp {mixer.ramp}, {subject.origin}"
    title = f"{name}: how far back each head looks\n{settings}"
    if mixer.dynamic:
        title += f"\nmean over {subject.text}"
    figure = new_figure(12, max(4.5, 0.36 * n_layers + 2), title)
    table, curves = figure.subplots(1, 2, width_ratios=(1.1, 1))
    most = max(float(values.max()), 1.0)
    image = table.imshow(values, cmap="viridis", vmin=0, vmax=most, aspect="auto")
    figure.colorbar(image, ax=table, label="span z (tokens)")
    figure.get_layout_engine().set(wspace=0.06)
    table.set_xticks(range(n_heads), range(1, n_heads + 1), fontsize=8)
    table.set_yticks(range(n_layers), layers, fontsize=8)
    table.set_xlabel("head")
    table.set_ylabel("layer")
    if values.size <= 200:
        for row, column in np.ndindex(values.shape):
            colour = "black" if values[row, column] > 0.6 * most else "white"
            text = f"{values[row, column]:,.{0 if most >= 10 else 1}f}"
            table.text(column, row, text, ha="center", va="center", fontsize=7.5, color=colour)

    reach = min(int(most + mixer.ramp) + 2, mixer.max_span)
    distance = np.unique(np.geomspace(1, reach, 400).round().astype(int))
    shades = colormaps["viridis"](np.linspace(0, 0.9, n_layers))
    for layer, own, shade in zip(layers, values, shades):
        windows = soft_window(own[:, None], distance, mixer.ramp)
        lines = curves.plot(distance, windows.T, color=shade, linewidth=1, alpha=0.8)
        if n_layers <= 12 or layer in (layers[0], layers[n_layers // 2], layers[-1]):
            lines[0].set_label(f"layer {layer}")
    curves.set_xscale("log", base=2)
    curves.xaxis.set_major_formatter("{x:,.0f}")
    curves.set_xlabel("distance of the key (tokens)")
    curves.set_ylabel("window: factor on its weight")
    curves.grid(alpha=0.3)
    curves.spines[["top", "right"]].set_visible(False)
    curves.legend(frameon=False, fontsize=8, title="one line for each head", title_fontsize=8)
    return figure


def _course(subject, name, layers, values, max_span):
    """Dynamic spans [layers, T, N] along the text, a row for each layer and head."""
    n_layers, length, n_heads = values.shape
    title = f"{name}: how far back each head looks along the text, {subject.origin}\n{subject.text}"
    figure = new_figure(11, max(3.5, 0.12 * n_layers * n_heads + 2), title)
    axes = figure.add_subplot()
    rows = values.transpose(0, 2, 1).reshape(-1, length)
    image = axes.imshow(rows, cmap="viridis", vmin=0, aspect="auto", interpolation="nearest")
    figure.colorbar(image, ax=axes, label=f"span z (tokens, at most {max_span:,})")
    axes.set_yticks(np.arange(n_layers) * n_heads + (n_heads - 1) / 2, [f"layer {layer}" for layer in layers])
    for layer in range(1, n_layers):
        axes.axhline(layer * n_heads - 0.5, color="white", linewidth=1)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("position")
    axes.set_ylabel(f"{n_heads} heads of each layer")
    return figure
