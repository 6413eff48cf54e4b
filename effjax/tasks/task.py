"""What all tasks have in common: one task becomes another as training goes on."""

import functools
from typing import Any, Self

import jax

from effjax.errors import UserError


class Task:
    """A model, its data and its measure under one configuration, `config`; see `effjax.tasks` for its methods.

    Made by `type(task)(config)`.

    Attributes:
      workdir: the run's directory, where a task keeps what it learned of its data and needs for predictions; None where
        there is none. Whoever trains, scores or predicts sets it.
      files: names of what it keeps there, which goes with the parameters wherever they go.
    """

    workdir = None
    files: tuple[str, ...] = ()

    @functools.cached_property
    def abstract_params(self):
        """Shapes and types of what `init` makes, which is traced once and never run."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def at_stage(self, config) -> Self:
        """The task as it is in a stage (`effjax.training.stages`) whose configuration is `config`."""
        if config is self.config:
            return self
        task = type(self)(config)
        task.workdir = self.workdir
        return task

    def adapt(self, params, *, frozen: bool = False) -> Self:
        """The task whose model suits these parameters: where a static size, such as the longest span, follows what is
        learned. The same object where nothing changes.

        The training loop asks whenever it reports, and makes its compiled step anew for another task. The shapes of
        parameters and carry stay, and results too, but for rounding.

        Args:
          params: concrete parameters.
          frozen: they are not going to change, and nothing will be trained.
        """
        del params, frozen
        return self

    def fits(self, params) -> bool | jax.Array:
        """Whether the static sizes that `adapt` chose still suit these parameters, as a traceable function.

        A training step that they do not suit changes nothing; the loop finds out when it next reports, adapts the task
        and takes that step again, with the same batch.
        """
        del params
        return True

    @property
    def adapted(self):
        """What `adapt` has changed so far, for JSON: `readapted(adapted)` of the first task is this one."""
        return None

    def readapted(self, adapted) -> Self:
        """The task that a run had when it saved its checkpoint."""
        del adapted
        return self

    def after_update(self, params, *, step, key):
        """Parameters after the layers' own rules (bounds, random features drawn anew), which follow every update of the
        optimizer; `step` counts the updates before this one, `key` is the step's."""
        del step, key
        return params

    def absorb(self, params, carry):
        """Parameters with what the loss of a step has found out beside its gradient, such as statistics of the batch,
        and handed on as its carry, stacked over the pieces of an accumulated step. What belongs to scoring must be
        among the parameters, since a checkpoint's parameters are all that it reads."""
        del carry
        return params

    def mult_adds(self, params) -> dict[str, float]:
        """Multiplications and additions of an input of a customary size, by the size; `params` may be shapes."""
        del params
        return {}

    def notes(self) -> dict[str, str]:
        """How the scores of the last `evaluate` were measured, where numbers do not tell."""
        return {}

    def predict(self, params, source: str, *, key: jax.Array) -> dict[str, Any]:
        """What the model makes of one input, for `effjax.predict`.

        Args:
          params: parameters.
          source: a file, or the text itself.
          key: PRNG key of what is drawn.

        Returns:
          What JSON can hold; `text` is what is printed for people.

        Raises:
          UserError: an input that cannot be read, or a task that has none.
        """
        del params, source, key
        raise UserError(f"config.task={self.config.task!r} predicts nothing of one input; see effjax.generate")
