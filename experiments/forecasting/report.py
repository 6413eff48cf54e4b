"""Makes the table and the pictures again from the metrics: `python experiments/forecasting/report.py`."""

import json
import pathlib
import statistics
from collections import defaultdict

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

HERE = pathlib.Path(__file__).parent
DATA = ("etth1", "exchange_rate", "m4_hourly")
MODELS = ("full", "log_sparse_1", "log_sparse_3", "log_sparse_6", "log_sparse_9")
BASELINES = ("seasonal_naive", "weekly_naive", "theta", "ets")
RISKS = ("rho_0.5", "rho_0.9")


def main() -> None:
    runs = defaultdict(list)
    for path in sorted((HERE / "metrics").glob("*.json")):
        run = json.loads(path.read_text())
        runs[run["data"], run["model"]].append(run)
    (HERE / "table.md").write_text(table(runs))
    draw_risks(runs)
    draw_curves(runs)
    print(table(runs))


def mean(runs, risk: str) -> float:
    return statistics.mean(run["test"][risk] for run in runs)


def table(runs) -> str:
    """rho-0.5 / rho-0.9 risk of every model on every set, the mean of its seeds; a dash where it has not been run."""
    lines = [f"| model | seeds | {' | '.join(DATA)} |", "|---|---|" + "---|" * len(DATA)]
    for model in (*BASELINES, *MODELS):
        own = [runs.get((data, model), []) for data in DATA]
        cells = [f"{mean(r, RISKS[0]):.4f} / {mean(r, RISKS[1]):.4f}" if r else "–" for r in own]
        seeds = "–" if model in BASELINES or not any(own) else str(min(len(r) for r in own if r))
        lines.append(f"| {model} | {seeds} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw_risks(runs) -> None:
    """Both risks of all that has been run, a panel for each set."""
    figure = Figure(figsize=(11, 4), dpi=120, layout="constrained")
    for i, data in enumerate(DATA):
        axes = figure.add_subplot(1, len(DATA), i + 1)
        there = [model for model in (*BASELINES, *MODELS) if (data, model) in runs]
        for j, risk in enumerate(RISKS):
            heights = [k + 0.4 * j for k in range(len(there))]
            values = [mean(runs[data, model], risk) for model in there]
            axes.barh(heights, values, 0.38, label=risk.replace("_", "-") + " risk", color=colormaps["tab10"](j))
        axes.set_yticks([k + 0.2 for k in range(len(there))], there)
        axes.invert_yaxis()
        axes.set_title(data, fontsize=11)
        finish(axes)
    save(figure, "risks.png")


def draw_curves(runs) -> None:
    """The training loss, of the first seed."""
    figure = Figure(figsize=(11, 4), dpi=120, layout="constrained")
    for i, data in enumerate(DATA):
        axes = figure.add_subplot(1, len(DATA), i + 1)
        for j, model in enumerate(MODELS):
            if own := runs.get((data, model)):
                axes.plot(*zip(*own[0]["train"]), label=model, color=colormaps["tab10"](j))
        axes.set_title(data, fontsize=11)
        axes.set_xlabel("steps")
        axes.set_ylabel("nats per scaled value, training")
        finish(axes)
    save(figure, "curves.png")


def finish(axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:  # below: there is no corner without a bar
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)


def save(figure, name: str) -> None:
    with open(HERE / name, "wb") as file:
        FigureCanvasAgg(figure).print_png(file)


if __name__ == "__main__":
    main()
