"""Makes the table and the picture again from the metrics: `python experiments/speech/report.py`."""

import json
import pathlib

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

HERE = pathlib.Path(__file__).parent


def main() -> None:
    runs = [json.loads(path.read_text()) for path in sorted((HERE / "metrics").glob("*.json"))]
    (HERE / "table.md").write_text(table(runs))
    draw(runs)
    print(table(runs))


def table(runs) -> str:
    """Word and character error rates of the test split."""
    lines = [
        "| run | parameters | steps | test utterances | words | WER greedy | WER beam | CER greedy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        greedy, beam = run["test"]["greedy"], run["test"]["beam"]
        rates = [greedy["word_error_rate"], beam["word_error_rate"], greedy["character_error_rate"]]
        cells = [run["name"], f"{run['parameters']:,}", run["steps"], greedy["utterances"], greedy["words"]]
        lines.append("| " + " | ".join(map(str, [*cells, *(f"{rate:.1%}" for rate in rates)])) + " |")
    return "\n".join(lines) + "\n"


def draw(runs) -> None:
    """Loss in training and word error rate of the valid split over steps."""
    figure = Figure(figsize=(9, 4), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    for run in runs:
        left.plot(*zip(*run["train"]), label=run["name"])
        right.plot(*zip(*run["valid"]), marker="o", markersize=3, label=run["name"])
    for axes, label in ((left, "nats per label, training"), (right, "word error rate, valid split")):
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    with open(HERE / "curves.png", "wb") as file:
        FigureCanvasAgg(figure).print_png(file)


if __name__ == "__main__":
    main()
