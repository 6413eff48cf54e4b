"""Makes the table and the picture again from the metrics: `python experiments/compression/report.py`."""

import json
import pathlib

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

HERE = pathlib.Path(__file__).parent
LITE_TRANSFORMER = 18.2  # Wu et al. 2020 (2004.11886), pruned and in 8 bits
MARKERS = {  # by how a way begins
    "float32": ".", "bfloat16": ".", "dense": ".", "int8": "o", "int4": "s", "qat_int8": "P", "qat_int4": "X",
    "sparse_50": "v", "sparse_75": "<", "sparse_90": "^", "2:4": "D", "minus_1_head": "*",
}  # fmt: skip
LABELS = {
    "dense": "trained on, dense", "int8": "8 bits", "int4": "4 bits", "qat_int8": "8 bits, trained so",
    "qat_int4": "4 bits, trained so", "sparse_50": "50 % zeros", "sparse_75": "75 % zeros", "sparse_90": "90 % zeros",
    "2:4": "2 of 4", "minus_1_head": "a head less in each layer",
}  # fmt: skip
FILL = {False: "full", True: "none"}
TUNED = ("dense", "qat", "sparse", "2:4", "minus")  # ways that trained on: to be compared with `dense`


def main() -> None:
    runs = {path.stem: read(path) for path in sorted((HERE / "metrics").glob("*.jsonl"))}
    text = f"{overview(runs)}\n" + "".join(f"### {name}\n\n{table(results)}\n" for name, results in runs.items())
    (HERE / "table.md").write_text(text)
    draw(runs)
    print(text)


def read(path: pathlib.Path) -> dict[str, dict]:
    """Results by way; those that the family cannot do are left out."""
    results = [json.loads(line) for line in path.read_text().splitlines()]
    return {result["way"]: result for result in points(results) if "impossible" not in result}


def points(results):
    """The results, and 8-bit weights on top of pruning as results of their own."""
    for result in results:
        yield result
        if "int8_bits_per_byte" in result:
            eight = {"bits_per_byte": result["int8_bits_per_byte"], "bytes": result["int8_bytes"]}
            yield result | eight | {"way": f"{result['way']} + int8"}


def base_of(way: str, results: dict) -> dict:
    """What a way is compared with: the model after as many further steps, or as it was."""
    return results["dense"] if way.startswith(TUNED) and "dense" in results else results["float32"]


def overview(runs: dict) -> str:
    """What every way costs every model in bits per byte, and how much smaller it makes the first one."""
    names = [name.removesuffix("-0") for name in runs]
    lines = [f"| way | times smaller | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    ways = dict.fromkeys(way for results in runs.values() for way in results)
    for way in ways:
        first = next(results for results in runs.values() if way in results)
        cells = []
        for results in runs.values():
            if way in results:
                score, base = results[way]["bits_per_byte"], base_of(way, results)
                cells.append(f"{score:.4f}" if results[way] is base else f"{score - base['bits_per_byte']:+.4f}")
            else:
                cells.append("–")
        smaller = first["float32"]["bytes"] / first[way]["bytes"]
        lines.append(f"| {way} | {smaller:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def table(results: dict) -> str:
    lines = ["| way | bits per byte | difference | bytes | times smaller |", "|---|---|---|---|---|"]
    for way, result in results.items():
        base = base_of(way, results)
        difference = result["bits_per_byte"] - base["bits_per_byte"]
        smaller = results["float32"]["bytes"] / result["bytes"]
        versus = " from dense" if base is not results["float32"] and base is not result else ""
        score, size = result["bits_per_byte"], result["bytes"]
        lines.append(f"| {way} | {score:.4f} | {difference:+.4f}{versus} | {size:,} | {smaller:.2f} |")
    return "\n".join(lines) + "\n"


def draw(runs: dict) -> None:
    """What each way costs against how much smaller it makes the model; the best ones of each family joined."""
    figure = Figure(figsize=(10, 6), dpi=120, layout="constrained")
    axes, drawn = figure.add_subplot(), {}
    for i, (name, results) in enumerate(runs.items()):
        color, front = colormaps["tab10"](i), []
        for way, result in results.items():
            smaller = results["float32"]["bytes"] / result["bytes"]
            cost = result["bits_per_byte"] - base_of(way, results)["bits_per_byte"]
            kind = next(kind for kind in MARKERS if way.startswith(kind))
            pruned = way.startswith(("sparse", "2:4"))
            axes.plot(
                smaller, cost, MARKERS[kind], color=color, markersize=6, fillstyle=FILL[pruned and "int8" not in way]
            )
            drawn[kind] = None
            front.append((smaller, cost))
        best = [
            point for point in front if not any(x >= point[0] and y <= point[1] and (x, y) != point for x, y in front)
        ]
        axes.plot(*zip(*sorted(best)), color=color, linewidth=1, label=name.removesuffix("-0"))
    axes.axvline(LITE_TRANSFORMER, color="grey", linestyle=":", label="Lite Transformer, 18.2 times")
    for kind in (kind for kind in MARKERS if kind in drawn):
        axes.plot([], [], MARKERS[kind], color="grey", label=LABELS.get(kind, kind))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.set_ylim(-2e-3, 3)
    axes.set_xlabel("times smaller than float32 (bytes); open markers: pruned, with weights in 32 bits")
    axes.set_ylabel("bits per byte lost, beginning of the test split")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    with open(HERE / "pareto.png", "wb") as file:
        FigureCanvasAgg(figure).print_png(file)


if __name__ == "__main__":
    main()
