"""Makes the tables and the picture again from ops.json and steps.json: `python report.py`."""

import json
import pathlib
import re

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

HERE = pathlib.Path(__file__).parent


def main() -> None:
    ops = json.loads((HERE / "ops.json").read_text())["lengths"]
    steps = json.loads((HERE / "steps.json").read_text())
    rows = {(case, int(n)): row["milliseconds"] for n, cases in ops.items() for case, row in cases.items()}
    text = "Attention alone, milliseconds:\n\n" + comparison(rows)
    text += "\nTraining steps, 4 blocks of width 256, milliseconds:\n\n" + comparison(
        keyed(steps["time"], "milliseconds")
    )
    mib = {
        key: {name: value / 2**20 for name, value in row.items()}
        for key, row in keyed(steps["memory"], "bytes").items()
    }
    text += "\nA training step's memory at 2,048 tokens over the number of blocks, MiB:\n\n" + comparison(mib, "blocks")
    (HERE / "tables.md").write_text(text)
    draw(rows, keyed(steps["time"], "milliseconds"), mib)
    print(text)


def keyed(rows, what):
    """`{(case, size): {contender: value}}` of rows named "case @ size"."""
    return {(key.split(" @ ")[0], int(key.split(" @ ")[1])): row[what] for key, row in rows.items()}


def comparison(rows, size="length") -> str:
    """effjax, every peer, and the ratio to the best of them."""
    lines = [f"| | {size} | effjax | peers | effjax / best peer |", "|---|---|---|---|---|"]
    for (case, n), row in sorted(rows.items(), key=lambda item: list(rows).index(item[0])):
        others = {name: value for name, value in row.items() if name != "effjax"}
        named = ", ".join(f"{name} {value:,.0f}" for name, value in others.items()) or "none ran"
        ratio = f"{row['effjax'] / min(others.values()):.2f}" if others else ""
        lines.append(f"| {case} | {n:,} | {row['effjax']:,.0f} | {named} | {ratio} |")
    return "\n".join(lines) + "\n"


def draw(ops, times, memory) -> None:
    """The ratio to the best peer of each case: attention, training steps, memory."""
    figure = Figure(figsize=(13, 4.2), dpi=120, layout="constrained")
    panels = (("attention, forward and backward", ops, "length"), ("training step", times, "length"))
    for i, (title, rows, size) in enumerate((*panels, ("memory of a training step", memory, "blocks"))):
        axes = figure.add_subplot(1, 3, i + 1)
        for number, case in enumerate(dict.fromkeys(case for case, _ in rows)):
            points = [
                (n, row["effjax"] / min(value for name, value in row.items() if name != "effjax"))
                for (other, n), row in rows.items()
                if other == case and len(row) > 1
            ]
            colour = colormaps["tab10"](number)
            label = re.sub(", .*", "", case)
            if points:
                axes.plot(*zip(*sorted(points)), marker="o", markersize=4, label=label, color=colour)
        axes.axhline(1.0, color="0.5", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xlabel(size)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel("effjax / best peer (below 1: effjax needs less)")
    with open(HERE / "ratios.png", "wb") as file:
        FigureCanvasAgg(figure).print_png(file)


if __name__ == "__main__":
    main()
