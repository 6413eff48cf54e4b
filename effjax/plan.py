"""What a configuration costs, before anything runs: parameters, FLOPs, state, and the memory of the training step.

  python -m effjax.plan --config=configs/reformer_enwik8.py
  python -m effjax.plan --config=configs/reformer_enwik8.py --config.data.length=16384 --json
  python -m effjax.plan --config=configs/reformer_enwik8.py --topology=v5e:2x4

No accelerator is touched, no data read and no parameter made. The training step is compiled for one CPU device and the
whole batch, or, with --topology and `pip install 'effjax[tpu]'`, just as it will run on that TPU slice: sharded by the
mesh and the rules of the configuration, with the memory of each chip and the traffic between chips. Where training goes
in stages, the plan is that of the last one, or of --stage=N.
"""

import dataclasses
import json
import sys
import time

import jax
from rich.console import Console
from rich.table import Table

from effjax import cli
from effjax.accounting.collectives import collectives_of
from effjax.accounting.flops import Flops, flops_of_jaxpr
from effjax.accounting.memory import memory_of, readable_bytes, tree_bytes, tree_bytes_per_device
from effjax.accounting.topologies import HBM_BYTES, DoesNotFit, compile_for_topology, topology_devices
from effjax.compression.training import training_optimizer
from effjax.errors import UserError
from effjax.tasks import make_task
from effjax.training.config import check_config
from effjax.training.progress import forward_flops, model_flops
from effjax.training.sharding import AXES, make_mesh
from effjax.training.stages import stages_of
from effjax.training.step import jit_train_step


def main(argv=None) -> None:
    """The command; see the module's docstring."""
    parser = cli.argument_parser("plan", __doc__)
    parser.add_argument("--topology", metavar="SLICE", help="a TPU slice: v5e:4x4, v6e:16x16, v4:2x2x1, v5p:4x4x4, …")
    parser.add_argument("--stage", type=int, metavar="N", help="stage of config.stages, from 1 (default: the last one)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    args = cli.parse(parser, argv)
    jax.config.update("jax_platforms", "cpu")
    stages = stages_of(args.config)
    if args.stage is not None and not 1 <= args.stage <= len(stages):
        raise UserError(f"--stage={args.stage}; the configuration has stages 1 to {len(stages)}")
    config = stages[(args.stage or len(stages)) - 1].config
    report = plan(make_task(config), config, topology=args.topology)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)


def plan(task, config, *, topology: str | None = None) -> dict:
    """All that can be known of a training run beforehand.

    Args:
      task: see `effjax.tasks`.
      config: the whole configuration.
      topology: a TPU slice such as "v5e:2x4"; None: one CPU device.

    Returns:
      Plain values, as `--json` prints them, under `config`, `parameters`, `flops_per_token`, `mult_adds` (of the
      blocks, for one input of a customary size), `state_bytes` and `training_step`; bytes of the last are those of one
      device.

    Raises:
      UserError: no such slice, libtpu is missing, or the mesh of the configuration does not fit the slice.
    """
    check_config(config)
    devices = topology_devices(topology) if topology else jax.devices("cpu")[:1]
    mesh = make_mesh(config.mesh if topology else dict.fromkeys(AXES, 1), devices)
    platform = devices[0].platform
    train_step, state, batch = jit_train_step(task, training_optimizer(task, config), config, mesh)
    with jax.set_mesh(mesh):
        step = train_step.trace(state, batch)
        forward = forward_flops(task, config.batch_size, state.params, batch, platform=platform)
        whole = flops_of_jaxpr(step.jaxpr, platform=platform)
        generation = jax.eval_shape(lambda: task.generation_state(config.data.length))
        return {
            "config": {"sequences": config.batch_size, "length": config.data.length, "topology": topology},
            "parameters": count_parameters(state.params),
            "flops_per_token": flops_per_token(forward, whole, tokens=batch["inputs"].size),
            "mult_adds": task.mult_adds(state.params),
            "state_bytes": {
                "parameters": tree_bytes(state.params),
                "optimizer": tree_bytes(state.opt_state),
                "carry": tree_bytes(state.carry),
                "generation": tree_bytes(generation),
            },
            "training_step": {"state": tree_bytes_per_device(state)} | compile_step(step.lower(), mesh),
        }


def count_parameters(params) -> dict:
    """Number of parameters in all, and by part of the model, named by the first three parts of their paths."""
    parts = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        part = jax.tree_util.keystr(path[:-1][:3], simple=True, separator="/")
        parts[part] = parts.get(part, 0) + leaf.size
    return {"total": sum(parts.values()), "by_part": parts}


def flops_per_token(forward: Flops, step: Flops, *, tokens: int) -> dict:
    """FLOPs per target, of the forward pass and of the whole step.

    `model` is what utilisation is measured against (see `training.progress.model_flops`); `training_step` is all that
    a step runs, recomputation and optimizer included, and `training_step_products` the matrix products among it.
    """
    flops = {
        "forward": forward.total,
        "model": model_flops(forward),
        "training_step": step.total,
        "training_step_products": step.matmul + step.kernel,
    }
    return {name: count / tokens for name, count in flops.items()}


def compile_step(lowered: jax.stages.Lowered, mesh: jax.sharding.Mesh) -> dict:
    """Compiles a step for the devices of a mesh: what it takes of each of them, and whether they have it."""
    kind, start = mesh.devices.flat[0].device_kind, time.monotonic()
    report = {"device": kind, "devices": mesh.size, "mesh": dict(mesh.shape), "available": HBM_BYTES.get(kind)}
    try:
        compiled = compile_for_topology(lowered) if kind in HBM_BYTES else lowered.compile()
    except DoesNotFit as refusal:
        return report | {"fits": False, "total": refusal.needed}
    memory, collectives = memory_of(compiled), collectives_of(compiled)
    return report | {
        "fits": report["available"] and memory.total <= report["available"],
        "total": memory.total,
        **dataclasses.asdict(memory),
        "collectives": {name: dataclasses.asdict(traffic) for name, traffic in collectives.by_kind.items()},
        "loops_counted_once": collectives.unknown_loops,
        "compile_seconds": round(time.monotonic() - start, 1),
    }


def show(report: dict) -> None:
    """Prints a plan as tables."""
    console = Console(highlight=False)
    config, counts, step = report["config"], report["parameters"], report["training_step"]
    _table(console, f"{counts['total']:,} parameters", {part: f"{n:,}" for part, n in counts["by_part"].items()})
    _table(console, "FLOPs per token", {name: f"{flops:,.0f}" for name, flops in report["flops_per_token"].items()})
    if report["mult_adds"]:
        rows = {size: f"{count / 1e6:,.1f} M" for size, count in report["mult_adds"].items()}
        _table(console, "Mult-adds of the blocks", rows)
    _table(console, "State", {name: readable_bytes(size) for name, size in report["state_bytes"].items()})

    sizes = [name for name in ("state", "arguments", "outputs", "aliased", "temp", "code", "total") if name in step]
    rows = {name: readable_bytes(step[name]) for name in sizes}
    if config["topology"]:
        rows["of"] = f"{readable_bytes(step['available'])}: {'fits' if step['fits'] else 'does not fit'}"
    for kind, traffic in step.get("collectives", {}).items():
        rows[f"{kind} x {traffic['count']:,}"] = readable_bytes(traffic["bytes"])
    where = f"{step['devices']} x {step['device']}" + (f" ({config['topology']})" if config["topology"] else "")
    title = f"Training step, {config['sequences']} sequences of {config['length']:,} on {where}: bytes per device"
    _table(console, title, rows)
    if step.get("loops_counted_once"):
        console.print(f"Collectives in {step['loops_counted_once']} loops of unknown length count once.")
    if "compile_seconds" in step:
        console.print(f"Compiled in {step['compile_seconds']} s.")


def _table(console: Console, title: str, rows: dict[str, str]) -> None:
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows.items():
        table.add_row(name.replace("_", " "), value)
    console.print(f"\n[bold]{title}", table)


if __name__ == "__main__":
    sys.exit(cli.run(main))
