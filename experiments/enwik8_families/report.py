"""Makes the table and the pictures again from the metrics: `python experiments/enwik8_families/report.py`."""

import json
import pathlib
import statistics
from collections import defaultdict

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

HERE = pathlib.Path(__file__).parent


def main() -> None:
    runs = defaultdict(list)
    for path in sorted((HERE / "metrics").glob("*.json")):
        run = json.loads(path.read_text())
        runs[run["family"]].append(run)
    speed = json.loads((HERE / "speed.json").read_text())
    order = sorted(runs, key=lambda family: mean(runs[family], bits))
    (HERE / "table.md").write_text(table(runs, order, speed))
    draw_curves(runs, order)
    draw_trade_off(runs, order, speed)
    print(table(runs, order, speed))


def bits(run) -> float:
    return run["test"]["bits_per_byte"]


def mean(runs, value) -> float:
    return statistics.mean(map(value, runs))


def table(runs, order, speed) -> str:
    """Test bits per byte (mean, lowest and highest of the seeds), speed, memory."""
    lines = [
        "| family | parameters | seeds | test bits per byte | lowest to highest | tokens/s | training step |",
        "|---|---|---|---|---|---|---|",
    ]
    for family in order:
        own = runs[family]
        scores = sorted(map(bits, own))
        rate, memory = speed[family]["tokens_per_second"], speed[family]["step_bytes"] / 2**20
        lines.append(
            f"| {family} | {own[0]['parameters']:,} | {len(own)} | {statistics.mean(scores):.3f} | "
            f"{scores[0]:.3f} to {scores[-1]:.3f} | {rate:,.0f} | {memory:,.0f} MiB |"
        )
    return "\n".join(lines) + "\n"


def draw_curves(runs, order) -> None:
    """Valid bits per byte over the bytes seen, the mean of the seeds."""
    figure = Figure(figsize=(9, 6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for i, family in enumerate(order):
        own = runs[family]
        per_step = own[0]["training_bytes"] / own[0]["steps"]
        steps = [step for step, _ in own[0]["valid"]]
        values = [statistics.mean(dict(map(tuple, run["valid"]))[step] for run in own) for step in steps]
        seen = [step * per_step / 1e6 for step in steps]
        axes.plot(seen, values, marker="o", markersize=3, label=family, **style(i))
    axes.set_xlabel("bytes seen (millions)")
    axes.set_ylabel("bits per byte, valid split")
    axes.set_title("Causal families at one budget: 2,000,000 parameters, 307,200 bytes", fontsize=11)
    finish(figure, axes, "curves.png")


def draw_trade_off(runs, order, speed) -> None:
    """Test bits per byte against speed."""
    figure = Figure(figsize=(9, 6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    points = {family: (speed[family]["tokens_per_second"], mean(runs[family], bits)) for family in order}
    for i, family in enumerate(order):
        rate, score = points[family]
        crowded = any(0 < x - rate < 100 and abs(score - y) < 0.06 for x, y in points.values())
        place = dict(xytext=(-6, 4), ha="right") if crowded else dict(xytext=(6, 4))
        spread = [[score - min(map(bits, runs[family]))], [max(map(bits, runs[family])) - score]]
        axes.errorbar([rate], [score], yerr=spread, fmt="o", capsize=3, label=family, color=style(i)["color"])
        axes.annotate(family, (rate, score), textcoords="offset points", fontsize=8, **place)
    axes.set_xlabel("training speed (tokens per second)")
    axes.set_ylabel("bits per byte, beginning of the test split (bars: lowest and highest seed)")
    finish(figure, axes, "speed.png", legend=False)


def style(i: int) -> dict:
    return dict(color=colormaps["tab10"](i % 10), linestyle=("-", "--", ":")[i // 10 % 3])


def finish(figure, axes, name: str, *, legend: bool = True) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(frameon=False, fontsize=8, ncols=2)
    with open(HERE / name, "wb") as file:
        FigureCanvasAgg(figure).print_png(file)


if __name__ == "__main__":
    main()
