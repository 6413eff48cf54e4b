"""Makes the table and the picture again from the metrics: `python experiments/hyperpartisan/report.py`."""

import json
import pathlib
import statistics
from collections import defaultdict

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

HERE = pathlib.Path(__file__).parent
KINDS = ("scratch", "pretrained")


def main() -> None:
    runs = defaultdict(list)
    for path in sorted((HERE / "metrics").glob("*-*.json")):
        run = json.loads(path.read_text())
        runs[run["kind"]].append(run)
    text = table(runs)
    (HERE / "table.md").write_text(text)
    draw(runs)
    print(text)


def table(runs) -> str:
    """Means and deviations over the folds, F1 of all articles together, and what always saying one class scores."""
    lines = [
        "| start | folds done | accuracy, mean ± deviation | F1, mean ± deviation | F1 of all test articles |",
        "|---|---|---|---|---|",
    ]
    for kind in KINDS:
        own = runs.get(kind, [])
        if not own:
            lines.append(f"| {kind} | 0 | not run | | |")
            continue
        accuracy, f1 = ([run["test"][f"test/{name}"] for run in own] for name in ("accuracy", "f1"))
        said, true = ([label for run in own for label in run[name]] for name in ("said", "true"))
        together = f1_of(said, true)
        lines.append(
            f"| {kind} | {len(own)} of {own[0]['folds']} | {spread(accuracy)} | {spread(f1)} | {together:.3f} |"
        )
    done = {run["fold"]: run["true"] for own in runs.values() for run in own}
    true = [label for labels in done.values() for label in labels]
    if true:
        share = sum(true) / len(true)
        lines.append(f"| always “mainstream” | {len(done)} | {1 - share:.3f} | 0.000 | 0.000 |")
        lines.append(f"| always “hyperpartisan” | {len(done)} | {share:.3f} | | {f1_of([1] * len(true), true):.3f} |")
    return "\n".join(lines) + "\n"


def spread(values) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0.0:.3f}"


def f1_of(said, true) -> float:
    """F1 of class 1."""
    hits = sum(a and b for a, b in zip(said, true))
    return 2 * hits / max(sum(said) + sum(true), 1)


def draw(runs) -> None:
    """Valid accuracy over the steps, a line for each fold."""
    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for kind, colour in zip(KINDS, ("#9aa5b1", "#1f77b4")):
        for i, run in enumerate(runs.get(kind, [])):
            if run["valid"]:
                steps, values = zip(*run["valid"])
                axes.plot(steps, values, color=colour, marker="o", markersize=3, label=None if i else kind)
    axes.set_xlabel("training step")
    axes.set_ylabel("accuracy, valid articles of each fold")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(frameon=False)
    with open(HERE / "folds.png", "wb") as file:
        FigureCanvasAgg(figure).print_png(file)


if __name__ == "__main__":
    main()
