"""Compresses trained models of experiments/enwik8_families and scores each; what is done is not done again.

  python experiments/compression/run.py --data=enwik8.xz --runs=runs/enwik8_families --families=full,longformer

Each result is one line of `metrics/FAMILY-SEED.jsonl`: the way, bits per byte of the test split's beginning, bytes.
Ways that train go on from the trained model for --steps more steps, as does `dense`, to be compared with.
"""

import functools
import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp

from effjax import cli
from effjax.compression.calibrate import calibrate, training_batches
from effjax.compression.kernels import find_kernels, select
from effjax.compression.prune import sparsity_of, targets_of
from effjax.compression.pruning_run import prune_run
from effjax.compression.quantize import kernel_losses, nbytes, quantize_params
from effjax.compression.training import pruning_plan
from effjax.errors import UserError
from effjax.tasks import make_task
from effjax.training.checkpoints import restore_params
from effjax.training.loop import train_to_the_end
from effjax.training.restore import restore_on_all_devices
from effjax.training.workdir import load_saved_config, open_workdir

HERE = pathlib.Path(__file__).parent
TASKS, CORPORA = {}, {}
ALL = ((".", True),)  # rules: the vocabulary too


def main(argv=None) -> None:
    parser = cli.plain_parser("compression", __doc__)
    parser.add_argument("--data", required=True, help="the real enwik8: raw, .zip, .gz or .xz")
    parser.add_argument("--runs", required=True, help="workdir of experiments/enwik8_families/run.py; only read")
    parser.add_argument("--families", default="full,longformer,lsh,performer,transformer_xl", help="with commas")
    parser.add_argument("--ways", default="all", help="all, or names with commas")
    parser.add_argument("--seed", type=int, default=0, help="of the runs (default: %(default)s)")
    parser.add_argument("--calibration_batches", type=int, default=64, help="for static scales (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="of fine-tuning (default: %(default)s)")
    parser.add_argument("--test_targets", type=int, default=65_536, help="bytes scored (default: %(default)s)")
    parser.add_argument("--workdir", default="runs/compression", help="of fine-tuned models (default: %(default)s)")
    parser.add_argument("--metrics", default=str(HERE / "metrics"), help="(default: beside this file)")
    args = parser.parse_args(argv)
    names = cli.chosen("--ways", args.ways, tuple(WAYS))
    pathlib.Path(args.metrics).mkdir(parents=True, exist_ok=True)
    for family in args.families.split(","):
        path = pathlib.Path(args.metrics) / f"{family}-{args.seed}.jsonl"
        done = {json.loads(line)["way"] for line in path.read_text().splitlines()} if path.exists() else set()
        for name in names:
            if name in done:
                continue
            start = time.monotonic()
            result = WAYS[name](Run(family, args))
            result = {"way": name} | result | {"seconds": round(time.monotonic() - start, 1)}
            with path.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(family, {key: value for key, value in result.items() if key != "sqnr"}, flush=True)


class Run:
    """A trained model, read once."""

    def __init__(self, family: str, args):
        self.family, self.args = family, args
        self.workdir = f"{args.runs}/{family}-{args.seed}"
        self.config = load_saved_config(open_workdir(self.workdir)).unlock()
        self.config.data.path = args.data

    @functools.cached_property
    def params(self):
        return trained(self.workdir, self.args.data)

    def with_settings(self, **settings):
        """The configuration with other fields, `group__name=value`."""
        config = self.config.copy_and_resolve_references().unlock()
        for name, value in settings.items():
            *groups, field = name.split("__")
            functools.reduce(getattr, groups, config)[field] = value
        return config.lock()

    def score(self, config, params) -> dict:
        """Bits per byte of the beginning of the test split."""
        task = TASKS.setdefault(config.to_json(), task_of(config))  # one compiled scorer for all parameters
        scores = task.evaluate(params, "test", limit=self.args.test_targets)
        return {"bits_per_byte": scores["bits_per_byte"], "targets": scores["targets"]}


def task_of(config):
    """The task of a configuration; all read one corpus, which is unpacked once."""
    task = make_task(config)
    corpus = CORPORA.setdefault(config.data.path, CORPORA.get(config.data.path) or task.corpus)
    task.corpus = task.scorer.corpus = corpus
    return task


@functools.lru_cache(maxsize=2)
def trained(workdir: str, data: str):
    config = load_saved_config(open_workdir(workdir)).unlock()
    config.data.path = data
    return restore_on_all_devices(make_task(config.lock()), workdir)[1]


def float32(run: Run) -> dict:
    return run.score(run.with_settings(), run.params) | {"bytes": nbytes(run.params)}


def bfloat16(run: Run) -> dict:
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), run.params)
    return run.score(run.with_settings(dtype="bfloat16"), params) | {"bytes": nbytes(params)}


def quantized(run: Run, mode: str, *, rules=(), params=None, states: bool = False) -> dict:
    """A mode of `effjax.compression.quantize.MODES`, applied after training."""
    params = run.params if params is None else params
    settings = dict(quantization__mode=mode, quantization__rules=rules, quantization__states=states)
    task = task_of(run.with_settings())
    kernels = select(find_kernels(task.init), rules, field="rules")
    scales = None
    if mode == "int8_static":
        batches = training_batches(task, run.args.calibration_batches)
        carry = task.initial_carry(run.config.batch_size)
        scales = calibrate(task.loss, params, batches, kernels, carry)
    small = jax.jit(lambda params: quantize_params(params, kernels, mode, 32, scales))(params)
    losses = list(kernel_losses(params, small, kernels).items())
    config = run.with_settings(**settings, quantization__stored=True)
    return run.score(config, small) | {"bytes": nbytes(small), "worst_sqnr": losses[0][1], "worst_kernel": losses[0][0]}


def fine_tuned(run: Run, way: str, start: str = "", **settings):
    """Configuration and parameters after --steps more steps, begun at a fifth of the learning rate."""
    config = run.with_settings(
        init_from=start or run.workdir,
        steps=run.args.steps,
        optimizer__learning_rate=0.2 * run.config.optimizer.learning_rate,
        optimizer__warmup=5,
        eval__every=0,
        eval__limit=2_048,
        checkpoint__every=20,
        **settings,
    )
    workdir = f"{run.args.workdir}/{run.family}-{run.args.seed}-{way}"
    task = task_of(config)
    train_to_the_end(task, config, workdir)
    return config, restore_on_all_devices(task, workdir)[1], workdir


def dense(run: Run) -> dict:
    """What the further steps do by themselves."""
    config, params, _ = fine_tuned(run, "dense")
    return run.score(run.with_settings(), params) | {"bytes": nbytes(params), "steps": config.steps}


def aware(run: Run, mode: str) -> dict:
    """Quantization-aware training, then integers."""
    config, params, _ = fine_tuned(run, f"qat_{mode}", quantization__mode=mode)
    return quantized(run, mode, params=params) | {"steps": config.steps}


def sparse(run: Run, way: str, **pruning) -> dict:
    """Pruned in training by the cubic schedule over two thirds of the steps; then 8-bit weights on top.

    Bytes as they would be stored: of a pruned kernel one bit for each weight and the weights that live. Nothing here
    computes with that form: it saves memory, not time.
    """
    steps = run.args.steps
    end = steps * 2 // 3
    every = end // 10
    schedule = dict(begin=0, end=end - end % every, every=every) | pruning
    settings = {f"pruning__{name}": value for name, value in (dict(method="magnitude") | schedule).items()}
    config, params, _ = fine_tuned(run, way, **settings)
    plan = pruning_plan(make_task(config), config)
    eight = quantized(run, "int8_weight_only", params=params)
    return run.score(run.with_settings(), params) | {
        "bytes": stored_bytes(params, plan, nbytes(params), 4),
        "sparsity": sparsity_of(params, plan.targets),
        "int8_bits_per_byte": eight["bits_per_byte"],
        "int8_bytes": stored_bytes(params, plan, eight["bytes"], 1),
        "steps": steps,
    }


def stored_bytes(params, plan, dense_bytes: int, width: int) -> int:
    """Bytes with a bitmap beside the living weights of pruned kernels, each of `width` bytes."""
    leaves = targets_of(params, plan.targets).values()
    size = sum(leaf.size for leaf in leaves)
    living = sum(int(jnp.sum(leaf != 0)) for leaf in leaves)
    return dense_bytes - size * width + living * width + size // 8


def fewer_heads(run: Run, heads: int) -> dict:
    """That many heads of each layer taken out, those that matter least to the training loss; then trained on."""
    before = run.config.model.n_heads
    out = f"{run.args.workdir}/{run.family}-{run.args.seed}-minus_{heads}_heads"
    arguments = dict(structure="heads", sparsity=heads / before, removal=True, limit=run.args.test_targets)
    if not pathlib.Path(out).exists():
        try:
            prune_run(run.with_settings(), run.workdir, out, **arguments)
        except UserError as error:
            return {"impossible": str(error)}
    config = load_saved_config(open_workdir(out))
    narrow = run.with_settings(model__n_heads=config.model.n_heads)
    _, params = restore_params(open_workdir(out), make_task(narrow).abstract_params)
    at_once = run.score(narrow, params)["bits_per_byte"]
    _, params, _ = fine_tuned(run, f"minus_{heads}_heads_tuned", start=out, model__n_heads=config.model.n_heads)
    result = run.score(narrow, params) | {"bytes": nbytes(params), "at_once": at_once, "steps": run.args.steps}
    return result | {"n_heads": config.model.n_heads}


WAYS = {
    "float32": float32,
    "bfloat16": bfloat16,
    "int8_weight_only": functools.partial(quantized, mode="int8_weight_only"),
    "int8_weight_only_all": functools.partial(quantized, mode="int8_weight_only", rules=ALL),
    "int8_dynamic": functools.partial(quantized, mode="int8_dynamic"),
    "int8_static": functools.partial(quantized, mode="int8_static"),
    "int4_weight_only": functools.partial(quantized, mode="int4_weight_only"),
    "int4_weight_only_all": functools.partial(quantized, mode="int4_weight_only", rules=ALL),
    "dense": dense,
    "qat_int8_dynamic": functools.partial(aware, mode="int8_dynamic"),
    "qat_int4_weight_only": functools.partial(aware, mode="int4_weight_only"),
    "sparse_50": functools.partial(sparse, way="sparse_50", sparsity=0.5),
    "sparse_75": functools.partial(sparse, way="sparse_75", sparsity=0.75),
    "sparse_90": functools.partial(sparse, way="sparse_90", sparsity=0.9),
    "2:4": functools.partial(sparse, way="2_of_4", structure="2:4"),
    "minus_1_head": functools.partial(fewer_heads, heads=1),
}


if __name__ == "__main__":
    sys.exit(cli.run(main))
