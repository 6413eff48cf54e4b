"""Makes table.md again from the metrics: `python experiments/duplication/report.py`."""

import json
import pathlib

HERE = pathlib.Path(__file__).parent
VARIANTS = ("full", "lsh-8", "lsh-4", "lsh-2", "lsh-1")


def main() -> None:
    lines = [f"| trained with | {' | '.join(VARIANTS)} | last loss, nats |", "|---" * (len(VARIANTS) + 2) + "|"]
    for variant in VARIANTS:
        run = json.loads((HERE / "metrics" / f"{variant}.json").read_text())
        scores = " | ".join(f"{100 * run['accuracy'][other]:.1f}" for other in VARIANTS)
        lines.append(f"| {variant} | {scores} | {run['loss'][-1][1]:.3f} |")
    text = "\n".join(lines) + "\n"
    (HERE / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
