"""Makes a trained model smaller: a new working directory with integers, which evaluate and generate load.

  python -m effjax.quantize --checkpoint=runs/longformer --mode=int8_weight_only --out=runs/longformer_int8
  python -m effjax.quantize --checkpoint=runs/longformer --mode=int8_static --out=runs/static --calibration_batches=64
  python -m effjax.quantize --checkpoint=runs/longformer --mode=int4_weight_only --out=runs/int4 \\
      --config.quantization.rules='((".", True),)' --config.quantization.group=32

Modes: int8_weight_only (a scale per output), int4_weight_only (a scale per group of inputs), int8_dynamic (8-bit
activations too, a scale per position) and int8_static (a scale per layer, calibrated on the first training batches).
Prints the score before and after, the bytes before and after, and the kernels that lost the most (signal to
quantization noise, in decibels). Rules choose kernels by path regex: by default all but embedding and read-out.
"""

import json
import sys

from effjax import cli


def main(argv=None) -> None:
    """The command; see the module's docstring."""
    parser = cli.argument_parser("quantize", __doc__)
    parser.add_argument("--checkpoint", dest="workdir", required=True, help="directory of the trained run")
    parser.add_argument("--which", default="latest", help="latest, best or a step (default: latest)")
    parser.add_argument("--mode", required=True, help="see above")
    parser.add_argument("--out", required=True, help="directory to write, new or empty")
    parser.add_argument("--states", action="store_true", help="streams keep keys, values and memories in 8 bits, too")
    parser.add_argument("--calibration_batches", type=int, default=32, help="of int8_static (default: %(default)s)")
    parser.add_argument("--split", default="test", help="scored before and after (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=65_536, help="targets scored; 0: all (default: %(default)s)")
    parser.add_argument("--worst", type=int, default=5, help="kernels listed (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = cli.parse(parser, argv)

    from effjax.compression.quantizing_run import quantize_run

    report = quantize_run(
        args.config,
        args.workdir,
        args.out,
        mode=args.mode,
        which=args.which,
        states=args.states,
        calibration_batches=args.calibration_batches,
        split=args.split,
        limit=args.limit,
    )
    worst = dict(list(report["sqnr"].items())[: args.worst])
    if args.json:
        print(json.dumps(report))
        return
    for name, before in report["before"].items():
        after = report["after"][name]
        print(f"{name:<24}{before:,.4f} -> {after:,.4f} ({after - before:+.4f})")
    sizes = report["bytes"]
    print(
        f"{'bytes':<24}{sizes['before']:,} -> {sizes['after']:,} ({sizes['before'] / sizes['after']:.2f} times smaller)"
    )
    print(f"{'bytes on disk':<24}{sizes['disk']:,} (formula {sizes['formula']:,})")
    print("least signal to quantization noise:")
    for path, decibels in worst.items():
        print(f"  {decibels:6.1f} dB  {path}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
