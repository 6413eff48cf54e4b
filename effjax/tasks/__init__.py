"""What a model is trained for: from a batch to a loss and metrics, from a checkpoint to a score.

A task owns its data, its model and its measure; the training loop knows it by these methods only (see
`effjax.tasks.language_modelling.LanguageModelling` for their contracts): `init`, `initial_carry`, `train_reader`,
`abstract_batch`, `loss`, `report`, `evaluate`, `sample`, and those of their base class, `effjax.tasks.task.Task`.
"""

import importlib

from effjax.compression.task import is_quantized, quantized_task
from effjax.errors import UserError

TASKS = {  # module and class, imported when asked for
    "language_modelling": ("language_modelling", "LanguageModelling"),
    "masked_language_modelling": ("masked_language_modelling", "MaskedLanguageModelling"),
    "classification": ("classification", "Classification"),
    "forecasting": ("forecasting", "Forecasting"),
    "speech": ("speech", "Speech"),
    "translation": ("translation", "Translation"),
    "summarisation": ("summarisation", "Summarisation"),
}


def make_task(config):
    """The task that `config.task` names, built from the whole configuration.

    Raises:
      UserError: no task of that name.
    """
    if config.task not in TASKS:
        raise UserError(f"config.task={config.task!r}; one of {', '.join(TASKS)} is allowed")
    module, name = TASKS[config.task]
    kind = getattr(importlib.import_module(f"effjax.tasks.{module}"), name)
    return (quantized_task(kind) if is_quantized(config) else kind)(config)
