"""A comparison as pictures: time, memory, FLOPs and error over the length."""

import io
import pathlib

from effjax.comparison.measure import BASELINE, Result, crossing

QUANTITIES = {
    "seconds": "seconds",
    "memory": "bytes, by the compiler's plan",
    "flops": "FLOPs",
    "error": "difference from exact attention (relative RMS)",
}


def draw(results: list[Result], quantity: str, path: pathlib.Path, *, title: str) -> None:
    """Draws one quantity of all families over the length, on logarithmic scales; in the picture of times, a ring marks
    the length from which a family is faster than exact attention.

    Args:
      results: of `measure.compare`.
      quantity: one of QUANTITIES.
      path: of the PNG to write.
      title: of the picture.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    families = sorted({result.family for result in results}, key=lambda name: (name != BASELINE, name))
    styles = ("-", "--", ":")
    for i, family in enumerate(families):
        points = [(r.length, getattr(r, quantity)) for r in results if r.family == family and getattr(r, quantity)]
        if not points:
            continue
        exact = family == BASELINE
        colour = "black" if exact else colormaps["tab10"](i % 10)
        style = dict(color=colour, linestyle=styles[i // 10 % 3], linewidth=2.5 if exact else 1.4)
        where = crossing(results, family) if quantity == "seconds" else None
        label = family if where is None else f"{family}, faster from {where:,.0f}"
        axes.plot(*zip(*points), marker="o", markersize=3.5, label=label, **style)
        if where is not None and where > points[0][0]:
            axes.plot([where], [_between(points, where)], "o", color=colour, markersize=10, fillstyle="none")
    lengths = sorted({result.length for result in results})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.set_xlabel("length (tokens)")
    axes.set_ylabel(QUANTITIES[quantity])
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(frameon=False, fontsize=8, ncols=2)
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    path.write_bytes(png.getvalue())


def _between(points, length):
    """A quantity at a length between two measured ones, on logarithmic scales."""
    import numpy as np

    lengths, values = np.log(np.array(points, float)).T
    return float(np.exp(np.interp(np.log(length), lengths, values)))
