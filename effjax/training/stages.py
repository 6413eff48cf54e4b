"""Training in stages: one run whose lengths, windows, batch size or learning rate change at given steps.

`config.stages` is a tuple of stages, each `(steps, ((field, value), …))`, in order:

    config.stages = ((1000, ()), (500, (("data.length", 4096), ("optimizer.learning_rate", 1e-4))))

A stage sets its fields on top of the configuration, not of the stage before. Parameters and the optimizer's moments
go on from stage to stage; the schedule begins anew, so that warm-up and decay are counted within the stage, and so
does what a task carries from step to step.
"""

from dataclasses import dataclass

from ml_collections import ConfigDict

from effjax.errors import UserError
from effjax.training.config import check_config, set_fields

# What a stage may set, whole fields or groups: nothing that names the parameters, the data or the run.
MAY_SET = ("batch_size", "accumulate", "dtype", "data.length", "data.stride", "model.", "optimizer.", "eval.")


@dataclass(frozen=True)
class Stage:
    """A stretch of a run under one configuration.

    Attributes:
      number: from 1.
      start: steps taken before it.
      end: its last step.
      first_batch: of its reader. The text is read on from where the stage before has got to, in targets.
      config: what holds in this stage; `steps` are those of the stage.
    """

    number: int
    start: int
    end: int
    first_batch: int
    config: ConfigDict


def stages_of(config: ConfigDict) -> tuple[Stage, ...]:
    """The stages of a run: one, under `config` itself, where `config.stages` is empty.

    Raises:
      UserError: a stage that is none, sets a field that no stage may set or to a value of another type, or makes a
        configuration that does not fit together; or stages of fewer steps than `config.steps`.
    """
    if not config.stages:
        return (Stage(1, 0, config.steps, 0, config),)
    stages, start, targets = [], 0, 0
    for number, stage in enumerate(config.stages, 1):
        own = _stage_config(config, number, stage)
        per_batch = own.batch_size * own.data.length
        stages.append(Stage(number, start, start + own.steps, -(-targets // per_batch), own))
        start, targets = start + own.steps, targets + own.steps * per_batch
    if start < config.steps:
        raise UserError(f"config.steps={config.steps}; the stages of config.stages have {start} steps in all")
    return tuple(stages)


def stage_of_step(config: ConfigDict, step: int) -> Stage:
    """The stage in which a step, counted from 1, is taken; the first one for step 0."""
    stages = stages_of(config)
    return next((stage for stage in stages if step <= stage.end), stages[-1])


def _stage_config(config: ConfigDict, number: int, stage) -> ConfigDict:
    match stage:
        case (int(steps), tuple(fields)) if all(isinstance(f, tuple) and len(f) == 2 for f in fields):
            pass
        case _:
            raise UserError(f"config.stages: stage {number}, {stage!r}, is no pair (steps, ((field, value), …))")
    own = config.copy_and_resolve_references().unlock()
    own.stages, own.steps = (), steps
    set_fields(own, fields, source=f"config.stages: stage {number}", may_set=MAY_SET)
    try:
        check_config(own)
    except UserError as error:
        raise UserError(f"config.stages: in stage {number}, {error}") from error
    return own.lock()
