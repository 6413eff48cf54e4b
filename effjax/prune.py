"""Prunes a trained model: masks what matters least, or takes out heads and hidden neurons that are masked.

  python -m effjax.prune --checkpoint=runs/full --out=runs/full_2_4 --structure=2:4
  python -m effjax.prune --checkpoint=runs/full --out=runs/full_half --structure=weights --sparsity=0.5
  python -m effjax.prune --checkpoint=runs/full --out=runs/full_3_heads --structure=heads --sparsity=0.25 --remove

Weights and blocks (block:4x4) go by magnitude, heads and neurons by what the loss of training batches says of them.
With --remove the model becomes narrower and computes the same function as the masked one; without --structure it takes
out what training with --config.pruning.structure=heads (or neurons) has masked. To train on from what is written here:
`python -m effjax.train --config=… --config.init_from=DIR`.
"""

import json
import sys

from effjax import cli


def main(argv=None) -> None:
    """The command; see the module's docstring."""
    parser = cli.argument_parser("prune", __doc__)
    parser.add_argument("--checkpoint", dest="workdir", required=True, help="directory of the trained run")
    parser.add_argument("--which", default="latest", help="latest, best or a step (default: latest)")
    parser.add_argument("--out", required=True, help="directory to write, new or empty")
    parser.add_argument("--structure", default="", help="weights, n:m, block:RxC, heads or neurons")
    parser.add_argument("--sparsity", type=float, default=0.5, help="share that is masked (default: %(default)s)")
    parser.add_argument("--distribution", default="uniform", help="uniform, global or erk (default: uniform)")
    parser.add_argument("--remove", action="store_true", help="take out heads and neurons that are masked")
    parser.add_argument("--batches", type=int, default=16, help="for importance (default: %(default)s)")
    parser.add_argument("--split", default="test", help="scored before and after (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=65_536, help="targets scored; 0: all (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = cli.parse(parser, argv)

    from effjax.compression.pruning_run import prune_run

    names = ("structure", "sparsity", "distribution", "which", "batches", "split", "limit")
    settings = {name: getattr(args, name) for name in names}
    report = prune_run(args.config, args.workdir, args.out, removal=args.remove, **settings)
    if args.json:
        print(json.dumps(report))
        return
    for name, before in report["before"].items():
        after = report["after"][name]
        print(f"{name:<24}{before:,.4f} -> {after:,.4f} ({after - before:+.4f})")
    for name in ("parameters", "bytes"):
        print(f"{name:<24}{report[name]['before']:,} -> {report[name]['after']:,}")
    print(f"{'sparsity':<24}{report['sparsity']:.4f} of the prunable weights")
    print(f"{'model':<24}{', '.join(f'{name}={value}' for name, value in report['model'].items())}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
