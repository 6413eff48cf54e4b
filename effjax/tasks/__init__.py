"""What a model is trained for: from a batch to a loss and metrics, from a checkpoint to a score.

A task owns its data, its model and its measure; the training loop knows it by these methods only (see
`effjax.tasks.language_modelling.LanguageModelling` for their contracts): `init`, `initial_carry`, `train_reader`,
`abstract_batch`, `loss`, `report`, `evaluate`, `sample`, and those of their base class, `effjax.tasks.task.Task`.
"""

from effjax.compression.task import is_quantized, quantized_task
from effjax.errors import UserError


def make_task(config):
    """The task that `config.task` names, built from the whole configuration.

    Raises:
      UserError: no task of that name.
    """
    task = _named_task(config)
    return quantized_task(type(task))(config) if is_quantized(config) else task


def _named_task(config):
    if config.task == "language_modelling":
        from effjax.tasks.language_modelling import LanguageModelling

        return LanguageModelling(config)
    if config.task == "masked_language_modelling":
        from effjax.tasks.masked_language_modelling import MaskedLanguageModelling

        return MaskedLanguageModelling(config)
    raise UserError(f"config.task={config.task!r}; 'language_modelling' or 'masked_language_modelling' is allowed")
