"""What a configuration costs, before anything runs: parameters, FLOPs, state, and the memory of the training step.

  python -m effjax.plan --config=configs/reformer_enwik8.py
  python -m effjax.plan --config=configs/reformer_enwik8.py --config.data.length=16384 --json
  python -m effjax.plan --config=configs/reformer_enwik8.py --topology=v5e:2x4

No accelerator is touched, no data read and no parameter made. The training step is compiled for one CPU device and the
whole batch, or, with --topology and `pip install 'effjax[tpu]'`, just as it will run on that TPU slice: sharded by the
mesh and the rules of the configuration, with the memory of each chip and the traffic between chips.
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
from effjax.accounting.flops import flop_breakdown
from effjax.accounting.memory import memory_of, readable_bytes, tree_bytes, tree_bytes_per_device
from effjax.accounting.topologies import HBM_BYTES, DoesNotFit, compile_for_topology, topology_devices
from effjax.tasks import make_task
from effjax.training.config import check_config
from effjax.training.optimizers import make_optimizer
from effjax.training.sharding import AXES, batch_shardings, make_mesh, state_shardings
from effjax.training.state import abstract_state, carry_batch_axes
from effjax.training.step import make_train_step


def main(argv=None) -> None:
    """The command; see the module's docstring."""
    parser = cli.argument_parser("plan", __doc__)
    parser.add_argument("--topology", metavar="SLICE", help="a TPU slice: v5e:4x4, v6e:16x16, v4:2x2x1, v5p:4x4x4, …")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    args = cli.parse(parser, argv)
    jax.config.update("jax_platforms", "cpu")
    report = plan(make_task(args.config), args.config, topology=args.topology)
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
      Plain values under `parameters`, `flops_per_token`, `state_bytes` and `training_step`, as `--json` prints them.

    Raises:
      UserError: no such slice, libtpu is missing, or the mesh of the configuration does not fit the slice.
    """
    check_config(config)
    devices = topology_devices(topology) if topology else jax.devices("cpu")[:1]
    mesh = make_mesh(config.mesh if topology else dict.fromkeys(AXES, 1), devices)
    optimizer = make_optimizer(config)
    state, batch = abstract_state(task, optimizer, config), task.abstract_batch()
    generation = jax.eval_shape(lambda: task.model.initial_state(1, task.model.dtype, max_length=config.data.length))
    return {
        "parameters": parameters(state.params),
        "flops_per_token": flops_per_token(task, optimizer, config, state, batch, devices[0].platform),
        "state_bytes": {
            "parameters": tree_bytes(state.params),
            "optimizer": tree_bytes(state.opt_state),
            "carry": tree_bytes(state.carry),
            "generation": tree_bytes(generation),
        },
        "training_step": training_step(task, optimizer, config, state, batch, mesh, topology),
    }


def parameters(params) -> dict:
    """Number of parameters in all and by part of the model, to a depth of two names."""
    parts = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        part = jax.tree_util.keystr(path[:-1][:2], simple=True, separator="/")
        parts[part] = parts.get(part, 0) + leaf.size
    return {"total": sum(parts.values()), "by_part": parts}


def flops_per_token(task, optimizer, config, state, batch, platform: str) -> dict:
    """FLOPs per target, as `accounting.flops` counts them.

    `model`, what utilisation is measured against, is 3 x the products of the forward pass; `training_step` is all that
    a step runs, recomputation and optimizer included, and `training_step_products` the matrix products among it.
    """

    def forward(params, batch, key):
        return task.loss(params, batch, task.initial_carry(config.batch_size), key=key, deterministic=False)[0]

    once = flop_breakdown(forward, state.params, batch, state.key, platform=platform)
    step = flop_breakdown(make_train_step(task, optimizer, config), state, batch, platform=platform)
    flops = {
        "forward": once.total,
        "model": 3 * (once.matmul + once.kernel),
        "training_step": step.total,
        "training_step_products": step.matmul + step.kernel,
    }
    return {name: count / batch["inputs"].size for name, count in flops.items()}


def training_step(task, optimizer, config, state, batch, mesh, topology: str | None) -> dict:
    """Compiles the training step for the devices of a mesh; what it needs of each of them."""
    state_sharding = state_shardings(state, mesh, config.sharding, carry_batch_axes(task, config))
    batch_sharding = batch_shardings(batch, mesh)
    state, batch = _place(state, state_sharding), _place(batch, batch_sharding)
    with jax.set_mesh(mesh):
        step = jax.jit(
            make_train_step(task, optimizer, config),
            in_shardings=(state_sharding, batch_sharding),
            out_shardings=(state_sharding, None),
            donate_argnums=0,
        )
        lowered = step.lower(state, batch)
    device = mesh.devices.flat[0]
    report = {
        "topology": topology,
        "device": device.device_kind,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "sequences": config.batch_size,
        "length": config.data.length,
        "state_bytes_per_device": tree_bytes_per_device(state),
    }
    start = time.monotonic()
    if topology is None:
        compiled = lowered.compile()
    else:
        report["available_bytes_per_device"] = HBM_BYTES[device.device_kind]
        try:
            compiled = compile_for_topology(lowered)
        except DoesNotFit as refusal:
            return report | {"fits": False, "bytes_per_device": refusal.needed, "compile_seconds": _since(start)}
        report["fits"] = True
    memory = memory_of(compiled)
    report |= {
        "bytes_per_device": memory.total,
        "memory": dataclasses.asdict(memory),
        "compile_seconds": _since(start),
    }
    if mesh.size > 1:
        collectives = collectives_of(compiled)
        report["collectives"] = {kind: dataclasses.asdict(each) for kind, each in collectives.by_kind.items()}
        report["loops_counted_once"] = collectives.unknown_loops
    return report


def _place(tree, shardings):
    """Abstract arrays that know where they will live."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def _since(start: float) -> float:
    return round(time.monotonic() - start, 1)


def show(report: dict) -> None:
    """Prints a plan as tables."""
    console = Console(highlight=False)
    counts, step = report["parameters"], report["training_step"]
    _table(console, f"{counts['total']:,} parameters", {part: f"{n:,}" for part, n in counts["by_part"].items()})
    _table(console, "FLOPs per token", {name: f"{flops:,.0f}" for name, flops in report["flops_per_token"].items()})
    _table(console, "State", {name: readable_bytes(size) for name, size in report["state_bytes"].items()})

    rows = {"state": step["state_bytes_per_device"], **step.get("memory", {}), "in all": step["bytes_per_device"]}
    if step["topology"]:
        rows["a chip has"] = step["available_bytes_per_device"]
    for kind, traffic in step.get("collectives", {}).items():
        rows[f"{kind}, {traffic['count']:,} times"] = traffic["bytes"]
    rows = {name: readable_bytes(size) for name, size in rows.items()}
    if step["topology"]:
        rows["fits"] = "yes" if step["fits"] else "NO"
    rows["compiled in"] = f"{step['compile_seconds']} s"
    where = f"{step['devices']} x {step['device']}" + (f" ({step['topology']})" if step["topology"] else "")
    title = f"Training step, {step['sequences']} sequences of {step['length']:,} on {where}: bytes per device"
    _table(console, title, rows)
    if step.get("loops_counted_once"):
        console.print(f"Collectives in {step['loops_counted_once']} loops of unknown length count once.")


def _table(console: Console, title: str, rows: dict[str, str]) -> None:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows.items():
        table.add_row(name.replace("_", " "), value)
    console.print(table)


if __name__ == "__main__":
    sys.exit(cli.run(main))
