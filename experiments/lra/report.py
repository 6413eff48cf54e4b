"""Makes the table and the picture again from the metrics: `python experiments/lra/report.py`."""

import json
import pathlib
import statistics
from collections import defaultdict

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

HERE = pathlib.Path(__file__).parent
# Accuracy in per cent, as the arena's README has it; by models of other sizes, trained far longer.
MIXERS = ("full", "longformer", "linformer", "performer", "lsh", "fixed", "big_bird")
PUBLISHED = {
    "listops": dict(zip(MIXERS, (36.37, 35.63, 35.70, 18.01, 37.27, 17.07, 36.05))),
    "text": dict(zip(MIXERS, (64.27, 62.85, 53.94, 65.40, 56.10, 63.58, 64.02))),
}


def main() -> None:
    runs = defaultdict(list)
    for path in sorted((HERE / "metrics").glob("*.json")):
        run = json.loads(path.read_text())
        runs[run["task"], run["mixer"]].append(run)
    text = table(runs)
    (HERE / "table.md").write_text(text)
    draw_curves(runs)
    print(text)


def table(runs) -> str:
    """Accuracy (mean of the seeds), beside the published one."""
    lines = [
        "| task | mixer | seeds | parameters | steps | test accuracy, % | published, % (not comparable) | tokens/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task, published in PUBLISHED.items():
        for mixer, theirs in published.items():
            own = runs.get((task, mixer))
            if not own:
                lines.append(f"| {task} | {mixer} | 0 | | | not run | {theirs} | |")
                continue
            accuracy = [100 * run["test"]["accuracy"] for run in own]
            spread = f" ({min(accuracy):.1f} to {max(accuracy):.1f})" if len(own) > 1 else ""
            lines.append(
                f"| {task} | {mixer} | {len(own)} | {own[0]['parameters']:,} | {own[0]['steps']} | "
                f"{statistics.mean(accuracy):.1f}{spread} | {theirs} | "
                f"{statistics.median(run['tokens_per_second'] for run in own):,.0f} |"
            )
    return "\n".join(lines) + "\n"


def draw_curves(runs) -> None:
    """Training loss of seed after seed, a panel for each task."""
    tasks = [task for task in PUBLISHED if any(key[0] == task for key in runs)]
    figure = Figure(figsize=(6 * max(len(tasks), 1), 4.5), dpi=120, layout="constrained")
    for panel, task in enumerate(tasks, 1):
        axes = figure.add_subplot(1, len(tasks), panel)
        for i, mixer in enumerate(PUBLISHED[task]):
            for run in runs.get((task, mixer), []):
                steps, losses = zip(*run["train"])
                axes.plot(steps, losses, color=colormaps["tab10"](i), label=mixer if run["seed"] == 0 else None)
        axes.set_title(task)
        axes.set_xlabel("training step")
        axes.set_ylabel("training loss (nats)")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    with open(HERE / "curves.png", "wb") as file:
        FigureCanvasAgg(figure).print_png(file)


if __name__ == "__main__":
    main()
