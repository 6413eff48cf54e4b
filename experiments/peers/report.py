"""Makes the tables and the picture again from ops.json, shares.json and steps.json: `python report.py`."""

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
    shares = json.loads((HERE / "shares.json").read_text())["lengths"]
    text = "Attention alone, milliseconds:\n\n" + comparison(rows)
    text += "\neffjax's attention alone, useful FLOPs a second over those of a matrix product beside it:\n\n"
    text += share_table(shares)
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


def share_table(shares) -> str:
    """Shares of a product's rate, a column for each length."""
    lines = [f"| | {' | '.join(f'{int(n):,}' for n in shares)} |", "|---" * (len(shares) + 1) + "|"]
    for case in next(iter(shares.values())):
        found = " | ".join(f"{rows[case]['share']:.2f}" for rows in shares.values())
        lines.append(f"| {case} | {found} |")
    return "\n".join(lines) + "\n"


def draw(ops, times, memory) -> None:
    """The ratio to the best peer of each case: attention, training steps, memory."""
    figure = Figure(figsize=(13, 4.4), dpi=120, layout="constrained")
    panels = {"attention, forward and backward": ops, "training step": times, "memory of a training step": memory}
    families = list(dict.fromkeys(family(case) for rows in panels.values() for case, _ in rows))
    for i, (title, rows) in enumerate(panels.items()):
        axes = figure.add_subplot(1, 3, i + 1)
        for name in families:
            points = sorted(
                (n, row["effjax"] / min(value for peer, value in row.items() if peer != "effjax"))
                for (case, n), row in rows.items()
                if family(case) == name and len(row) > 1
            )
            if points:
                style = dict(marker="o", markersize=4, color=colormaps["tab10"](families.index(name)))
                axes.plot(*zip(*points), label=name if i == 0 else None, **style)
        axes.axhline(1.0, color="0.5", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(sorted({n for _, n in rows}))
        axes.xaxis.set_major_formatter(lambda n, _: f"{n:,.0f}")
        axes.yaxis.set_major_formatter(lambda ratio, _: f"{ratio:.3g}")
        axes.set_xlabel("blocks" if rows is memory else "length")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("effjax / best peer (below 1: effjax needs less)")
    figure.legend(loc="outside lower center", ncols=len(families), frameon=False, fontsize=9)
    with open(HERE / "ratios.png", "wb") as file:
        FigureCanvasAgg(figure).print_png(file)


def family(case: str) -> str:
    """A case without its sizes."""
    return re.sub(r"[ ,]+\d.*", "", case)


if __name__ == "__main__":
    main()
