"""What all tasks have in common: one task becomes another as training goes on."""

from typing import Self


class Task:
    """A model, its data and its measure under one configuration, `config`; see `effjax.tasks` for its methods.

    Made by `type(task)(config)`.
    """

    def at_stage(self, config) -> Self:
        """The task as it is in a stage (`effjax.training.stages`) whose configuration is `config`."""
        return self if config is self.config else type(self)(config)

    def adapt(self, params) -> Self:
        """The task whose model suits these parameters: where a static size, such as the longest span, follows what is
        learned. The same object where nothing changes.

        The training loop asks whenever it reports, and makes its compiled step anew for another task. The shapes of
        parameters and carry stay, and results too, but for rounding.
        """
        del params
        return self
