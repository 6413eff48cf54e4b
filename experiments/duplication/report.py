"""Makes table.md and the picture again from the metrics: `python experiments/duplication/report.py`."""

import json
import pathlib

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

HERE = pathlib.Path(__file__).parent
VARIANTS = ("full", "lsh-8", "lsh-4", "lsh-2", "lsh-1")


def main() -> None:
    lines = [f"| trained with | {' | '.join(VARIANTS)} | last loss, nats |", "|---" * (len(VARIANTS) + 2) + "|"]
    runs = {variant: json.loads((HERE / "metrics" / f"{variant}.json").read_text()) for variant in VARIANTS}
    for variant, run in runs.items():
        scores = " | ".join(f"{100 * run['accuracy'][other]:.1f}" for other in VARIANTS)
        lines.append(f"| {variant} | {scores} | {run['loss'][-1][1]:.3f} |")
    text = "\n".join(lines) + "\n"
    (HERE / "table.md").write_text(text)
    draw(runs)
    print(text)


def draw(runs: dict) -> None:
    """Training loss over steps, and accuracy over the rounds that a model is evaluated with."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy = figure.subplots(1, 2)
    for variant, run in runs.items():
        loss.plot(*zip(*run["loss"]), label=variant)
        scores = [100 * run["accuracy"][other] for other in reversed(VARIANTS)]
        accuracy.plot(VARIANTS[::-1], scores, marker="o", label=variant)
    loss.set(xlabel="training step", ylabel="nats per symbol", title="loss, by what a model is trained with")
    accuracy.set(xlabel="evaluated with", ylabel="symbols right, %", title="the copied half")
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
        axes.legend(title="trained with", frameon=False)
    figure.savefig(HERE / "curves.png", dpi=120)


if __name__ == "__main__":
    main()
