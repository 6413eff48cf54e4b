"""Makes the table and the picture from the metrics: `python experiments/translation/report.py`."""

import json
import pathlib

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

HERE = pathlib.Path(__file__).parent
TESTS = {"test": "2016", "test_2017": "2017", "test_2018": "2018"}


def main() -> None:
    runs = [json.loads(path.read_text()) for path in sorted((HERE / "metrics").glob("*.json"))]
    if not runs:
        raise SystemExit("there are no metrics yet: see run.py")
    (HERE / "table.md").write_text(table(runs))
    draw(runs)
    print(table(runs))


def table(runs) -> str:
    """BLEU of every test set, mult-adds, decoding speed."""
    speed = HERE / "speed.json"
    speeds = json.loads(speed.read_text()) if speed.exists() else {}
    years = " | ".join(f"BLEU {year}" for year in TESTS.values())
    lines = [
        f"| pair | model | parameters | mult-adds | steps | {years} | sentences/s |",
        "|---" * (6 + len(TESTS)) + "|",
    ]
    for run in runs:
        bleu = " | ".join(f"{run['scores'][split]['bleu']:.1f}" for split in TESTS)
        (mult_adds,) = run["mult_adds"].values()
        name = f"{run['pair']}-{run['model']}"
        lines.append(
            f"| {run['pair']} | {run['model']} | {run['parameters']:,} | {mult_adds / 1e6:.1f}M | {run['steps']:,} | "
            f"{bleu} | {speeds.get(name, 'not measured')} |"
        )
    signatures = sorted({run["signature"] for run in runs})
    return "\n".join(lines) + "\n\nsacreBLEU: " + ", ".join(f"`{signature}`" for signature in signatures) + "\n"


def draw(runs) -> None:
    """Valid loss over steps."""
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for run in runs:
        steps, losses = zip(*run["valid"])
        axes.plot(steps, losses, marker="o", markersize=3, label=f"{run['pair']}, {run['model']}")
    axes.set_xlabel("steps")
    axes.set_ylabel("nats per byte pair, valid split")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with open(HERE / "curves.png", "wb") as file:
        FigureCanvasAgg(figure).print_png(file)


if __name__ == "__main__":
    main()
