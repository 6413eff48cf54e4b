"""The learning curves of a run, as one picture."""

import io

from etils import epath

from effjax.training.metrics import read_rows

COLOURS = {"train": "#9aa5b1", "valid": "#1f77b4", "test": "#d62728"}


def draw_curves(workdir: epath.Path, metric: str) -> epath.Path:
    """Draws `train/…`, `valid/…` and `test/…` of a metric over the steps, from `metrics.jsonl`.

    Args:
      workdir: of the run; the picture is written to `workdir/curves.png`.
      metric: such as `bits_per_byte`.

    Returns:
      The path of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_rows(workdir / "metrics.jsonl")
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for split, colour in COLOURS.items():
        points = [(row["step"], row[f"{split}/{metric}"]) for row in rows if f"{split}/{metric}" in row]
        if not points:
            continue
        steps, values = zip(*points)
        label = f"{split}, last {values[-1]:.3f}"
        if split == "test":
            axes.plot(steps[-1:], values[-1:], "*", color=colour, markersize=12, label=label, zorder=3)
        else:
            axes.plot(steps, values, color=colour, marker="o" if split == "valid" else None, markersize=4, label=label)
    axes.set_xlabel("training step")
    axes.set_ylabel(metric.replace("_", " "))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(frameon=False)
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    path = workdir / "curves.png"
    path.write_bytes(png.getvalue())
    return path
