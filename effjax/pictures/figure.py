"""What all pictures have in common: colours that colour-blind people tell apart, images of pairs, PNG."""

import io
from typing import NamedTuple

import numpy as np
from etils import epath
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")  # Okabe & Ito 2008
PALE, NOBODY = "#B9DDF1", "#F3F3F3"


class Picture(NamedTuple):
    """A figure and the name of its file, or a remark on why there is none, or both."""

    name: str
    figure: Figure | None
    remark: str = ""


def new_figure(width: float, height: float, title: str) -> Figure:
    """An empty figure of so many inches, under a title that is taken literally (a text may hold `$`)."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def save(figure: Figure, path: epath.Path) -> None:
    """Writes a figure as PNG."""
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    path.write_bytes(png.getvalue())


def draw_pairs(axes, pairs: np.ndarray, colours, queries: np.ndarray, keys: np.ndarray) -> None:
    """Draws a matrix of kinds of pairs.

    Args:
      axes: to draw on.
      pairs: `[queries, keys]`, 0 where a query does not see a key, otherwise the number of a kind from 1.
      colours: of the kinds, the first one that of 1.
      queries, keys: evenly spaced positions of rows and columns.
    """
    shades = np.array([to_rgb(colour) for colour in (NOBODY, *colours)])
    row, column = (float(at[1] - at[0]) / 2 if len(at) > 1 else 0.5 for at in (queries, keys))
    extent = (keys[0] - column, keys[-1] + column, queries[-1] + row, queries[0] - row)
    # As colours, not numbers: where cells are smaller than pixels, colours are mixed and no number is made up.
    axes.imshow(shades[pairs], extent=extent, aspect="equal")
    axes.tick_params(labelsize=7)


def add_legend(figure: Figure, names, colours, *, ncols: int) -> None:
    """A legend of coloured fields below all panels."""
    fields = [Patch(facecolor=colour, edgecolor="#888888", label=name) for name, colour in zip(names, colours)]
    figure.legend(handles=fields, loc="outside lower center", ncols=ncols, frameon=False, fontsize=9)


def in_words(noun: str, numbers) -> str:
    """Numbers as a reader counts them: `layers 1–4, 6`."""
    runs = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    parts = [str(a) if a == b else f"{a}, {b}" if b == a + 1 else f"{a}–{b}" for a, b in runs]
    return f"{noun}{'s' if len(numbers) > 1 else ''} {', '.join(parts)}"
