"""The optimizer of a run, around which pruning stands where the configuration asks for it."""

import optax

from effjax.compression.kernels import find_kernels, select
from effjax.compression.prune import Plan, prune
from effjax.compression.structure import structure_of
from effjax.errors import UserError
from effjax.training.optimizers import make_optimizer


def training_optimizer(task, config) -> optax.GradientTransformation:
    """`make_optimizer`, with pruning where `config.pruning` has a method.

    Raises:
      UserError: what `make_optimizer` raises; integers, which nobody can train; pruning that does not fit.
    """
    quantization = config.quantization
    if quantization.stored or quantization.mode == "int8_static":
        what = "integers" if quantization.stored else "static scales"
        raise UserError(
            f"config.quantization: {what} cannot be trained; train with stored=False and the mode int8_dynamic, "
            "then make them by effjax.quantize"
        )
    optimizer = make_optimizer(config)
    if config.pruning.method == "none":
        return optimizer
    return prune(optimizer, pruning_plan(task, config))


def pruning_plan(task, config) -> Plan:
    """What `config.pruning` says.

    Raises:
      UserError: it does not fit the model, or does not come to its end within the steps.
    """
    settings = config.pruning
    if settings.end >= config.steps:
        raise UserError(f"config.pruning.end={settings.end}; less than config.steps={config.steps} is allowed")
    kernels = select(find_kernels(task.init), settings.rules, field="config.pruning.rules")
    return Plan(
        structure_of(settings.structure, kernels),
        method=settings.method,
        distribution=settings.distribution,
        sparsity=settings.sparsity,
        initial=settings.initial,
        begin=settings.begin,
        end=settings.end,
        every=settings.every,
    )
