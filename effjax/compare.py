"""Families of attention side by side at equal shapes: time, tokens per second, memory, FLOPs, error.

  python -m effjax.compare --families=full,local,lsh --lengths=1k,2k,4k
  python -m effjax.compare --families=all --lengths=1k,2k,4k,8k,16k --train --output=comparison

One layer of each family, projections included, is compiled and timed on the default device; calls are interleaved. The
memory is the compiler's plan, the FLOPs are counted on the jaxpr, and the error is the difference of the outputs from
those of exact attention with the same projections, where a family has them (of LSH with one for queries and keys). What
a family overtakes from some length on is `full`, or `full_both_sides` where it looks to both sides. One that fails, or
passes --seconds or --memory, is reported and given up; the others go on. Writes comparison.json and PNGs to --output.
"""

import dataclasses
import json
import pathlib
import platform
import re
import sys

import jax
from rich.console import Console
from rich.table import Table

from effjax import cli
from effjax.accounting.memory import readable_bytes
from effjax.allocator import keep_freed_memory
from effjax.comparison.families import BOTH_SIDES, FAMILIES
from effjax.comparison.measure import BASELINE, Limits, Result, Shapes, compare, crossing
from effjax.comparison.pictures import QUANTITIES, draw
from effjax.errors import UserError


def main(argv=None) -> None:
    """The command; see the module's docstring."""
    args = _parser().parse_args(argv)
    families, lengths = _families(args.families), _lengths(args.lengths)
    for name in ("batch_size", "d_model", "n_heads", "head_dim", "repeats"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name}={getattr(args, name)}; 1 or more is allowed")
    shapes = Shapes(args.batch_size, args.d_model, args.n_heads, args.head_dim, args.dtype)
    limits = Limits(args.seconds, args.memory * 2**30)
    keep_freed_memory()
    output = pathlib.Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False, soft_wrap=True)
    options = dict(shapes=shapes, train=args.train, repeats=args.repeats, limits=limits)
    results = compare(families, lengths, report=console.print, **options)
    device = jax.devices()[0]
    settings = {
        "device": device.device_kind,
        "machine": platform.machine(),
        "jax": jax.__version__,
        "train": args.train,
        "repeats": args.repeats,
        **dataclasses.asdict(shapes),
    }
    exact = lambda name: BOTH_SIDES[0] if name in BOTH_SIDES else BASELINE
    crossings = {name: crossing(results, name, exact(name)) for name in families}
    report = {"settings": settings, "results": [dataclasses.asdict(r) for r in results], "crossings": crossings}
    (output / "comparison.json").write_text(json.dumps(report, indent=1) + "\n")
    what = "forward and backward" if args.train else "forward"
    for quantity in QUANTITIES:
        title = f"{what}, {shapes.n_heads} heads of {shapes.head_dim}, {shapes.dtype}, {device.device_kind}"
        draw(results, quantity, output / f"{quantity}.png", title=title)
    _show(console, results, crossings)
    console.print(f"written: {output}/comparison.json, " + ", ".join(f"{quantity}.png" for quantity in QUANTITIES))


def _parser() -> cli.ArgumentParser:
    parser = cli.plain_parser("compare", __doc__)
    parser.add_argument("--families", default="all", help=f"all, or names with commas: {', '.join(FAMILIES)}")
    parser.add_argument("--lengths", default="1k,2k,4k", help="with commas; 4k is 4,096 (default: %(default)s)")
    parser.add_argument("--train", action="store_true", help="time forward and backward, not forward alone")
    parser.add_argument("--output", default="comparison", help="directory of the results (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=1, help="sequences (default: %(default)s)")
    parser.add_argument("--d_model", type=int, default=512, help="width (default: %(default)s)")
    parser.add_argument("--n_heads", type=int, default=8, help="heads (default: %(default)s)")
    parser.add_argument("--head_dim", type=int, default=64, help="width of a head (default: %(default)s)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the computation")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls, of which the median (default: 5)")
    parser.add_argument("--seconds", type=float, default=60.0, help="longest call allowed (default: %(default)s)")
    parser.add_argument("--memory", type=float, default=16.0, help="GiB allowed (default: %(default)s)")
    return parser


def _families(text: str) -> dict:
    names = list(FAMILIES) if text == "all" else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in FAMILIES:
            raise UserError(
                f"--families={text}: there is no {name!r}; all, or some of {', '.join(FAMILIES)} is allowed"
            )
    return {name: FAMILIES[name] for name in names}


def _lengths(text: str) -> list[int]:
    lengths = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([1-9]\d*)(k?)\s*", part)
        if not match:
            raise UserError(f"--lengths={text}: {part!r} is no length; numbers such as 1000 or 4k (4,096) are allowed")
        lengths.add(int(match[1]) * (1024 if match[2] else 1))
    return sorted(lengths)


def _show(console: Console, results: list[Result], crossings: dict) -> None:
    """Prints one table per length, and where the families overtake exact attention."""
    for length in sorted({result.length for result in results}):
        table = Table(title=f"length {length:,}", title_justify="left")
        for column in ("family", "time", "tokens/s", "memory", "GFLOP", "error"):
            table.add_column(column, justify="left" if column == "family" else "right", no_wrap=column == "family")
        for result in (r for r in results if r.length == length):
            if result.problem:
                table.add_row(result.family, "–")
                continue
            table.add_row(
                result.family,
                f"{result.seconds * 1e3:,.1f} ms",
                f"{result.tokens_per_second:,.0f}",
                readable_bytes(result.memory),
                f"{result.flops / 1e9:,.2f}",
                "" if result.error is None else f"{result.error:.2g}",
            )
        console.print(table)
    for result in results:
        if result.problem:
            console.print(f"{result.family} at {result.length:,}: {result.problem}")
    for family, where in crossings.items():
        if where is not None:
            console.print(f"{family} is faster than exact attention from length {where:,.0f}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
