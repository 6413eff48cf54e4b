"""From the working directory of a trained run to that of a pruned, or narrower, model."""

import jax
import jax.numpy as jnp

from effjax.compression.calibrate import training_batches
from effjax.compression.importance import alike_in_all_layers, unit_importance
from effjax.compression.kernels import find_kernels, select
from effjax.compression.prune import Plan, masked, prune_once, sparsity_of, targets_of
from effjax.compression.quantize import nbytes
from effjax.compression.quantizing_run import after_training, float_task, score, write_smaller
from effjax.compression.removal import remove, shared_by_layers
from effjax.compression.sparsity import check_sparsity
from effjax.compression.structure import structure_of
from effjax.errors import UserError
from effjax.tasks import make_task
from effjax.training.release import check_release
from effjax.training.workdir import open_workdir


def prune_run(
    config,
    workdir: str,
    out: str,
    *,
    structure: str = "",
    sparsity: float = 0.0,
    distribution: str = "uniform",
    removal: bool = False,
    which: str = "latest",
    batches: int = 16,
    split: str = "test",
    limit: int = 0,
) -> dict:
    """Writes a pruned copy of a run and says what it cost.

    Args:
      config: the run's, with the rules of `config.pruning`.
      workdir: the run's.
      out: directory to write.
      structure: as of `effjax.compression.structure.structure_of`; "": nothing more is masked than is already.
        Weights and blocks go by magnitude, heads and neurons by their importance for training batches; heads of
        which layers share parameters, where they are to be removed, by that for all layers together.
      sparsity: share of the units that is masked, in [0, 1).
      distribution: "uniform", "global" or "erk".
      removal: take out heads and neurons that are masked in every layer.
      which: checkpoint: "latest", "best" or a step.
      batches: training batches that importance is measured on.
      split, limit: what is scored before and after.

    Returns:
      `before` and `after` (scores), `bytes`, `parameters`, `sparsity` over the prunable weights, `model`
      (n_heads and d_ff).

    Raises:
      UserError: anything that does not fit, before any work is done.
    """
    check_release(open_workdir(out))
    check_sparsity(sparsity)
    task = float_task(config, workdir)
    kernels = find_kernels(task.init)
    chosen = select(kernels, config.pruning.rules, field="config.pruning.rules")
    plan = None
    if structure:
        plan = Plan(structure_of(structure, chosen), distribution=distribution, sparsity=sparsity)
    elif not removal:
        raise UserError("nothing to do: give a structure to mask, or remove what is masked")
    if structure in ("heads", "neurons") and batches < 1:
        raise UserError(f"batches={batches}: importance needs at least one training batch")

    task, step, params, mesh = after_training(task, workdir, which)
    config = narrow = task.config
    with jax.set_mesh(mesh):
        small = params
        if structure in ("heads", "neurons"):
            importance = unit_importance(task, params, training_batches(task, batches), plan)
            alive = {path: jnp.ones(leaf.shape, bool) for path, leaf in targets_of(params, plan.targets).items()}
            small = masked(params, plan.masks_by_unit(importance, alive, 0))
            if removal and shared_by_layers(config, small, kernels, structure):
                small = masked(params, plan.masks_by_unit(alike_in_all_layers(importance), alive, 0))
        elif structure:
            small, _ = prune_once(params, plan)
        sparse = sparsity_of(small, chosen)
        if removal:
            for kind in ("heads", "neurons"):
                narrow, small = remove(narrow, small, kernels, kind)
            if narrow is config:
                raise UserError(f"{workdir}: no head and no neuron is masked in every layer; nothing is removed")
        settings = dict(limit=limit or None, mesh=mesh)
        before = task.evaluate(params, split, **settings)
        after = score(make_task(narrow), small, task, split, **settings)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    disk = write_smaller(out, narrow, step, small, task)
    return {
        "before": before,
        "after": after,
        "bytes": {"before": nbytes(params), "after": nbytes(small), "disk": disk},
        "parameters": {"before": count(params), "after": count(small)},
        "sparsity": sparse,
        "model": {field: narrow.model[field] for field in ("n_heads", "d_ff")},
    }
