"""Any task with quantised parameters: integers, as a checkpoint holds them, or floats that training learns to round."""

import functools

import jax

from effjax.compression.kernels import find_kernels, select
from effjax.compression.quantize import MODES, quantize_params, round_params
from effjax.errors import UserError
from effjax.layers.small_state import SmallVectors
from effjax.models.decoder import Decoder


def is_quantized(config) -> bool:
    """Whether a configuration asks for anything of this module."""
    return config.quantization.mode != "none" or config.quantization.states


@functools.cache
def quantized_task(cls: type) -> type:
    """A class of tasks with `Quantized` before it."""
    return type(cls.__name__, (Quantized, cls), {})


class Quantized:
    """What quantization changes of a task.

    With `config.quantization.stored` the parameters are integers, to score and generate with. Else they are floats
    which every use of the model rounds, with straight-through gradients: quantization-aware training. Those methods of
    the contract (`effjax.tasks`) that apply the model round first and hand rounded parameters on, so that nothing
    behind them, whatever a task compiles, sees the floats; what changes parameters (`after_update`, `absorb`) does.
    """

    def __init__(self, config):
        mode = config.quantization.mode
        if mode not in ("none", *MODES):
            raise UserError(f"config.quantization.mode={mode!r}; none or one of {', '.join(MODES)} is allowed")
        if mode != "none" and (config.quantization.group < 2 or config.quantization.group % 2):
            raise UserError(f"config.quantization.group={config.quantization.group}; 2, 4, 6, … are allowed")
        super().__init__(config)
        if config.quantization.states:
            self._check_states()

    def _check_states(self):
        """Raises UserError where no stream of the task keeps anything in 8 bits."""
        settings = "config.quantization.states=True"
        if not getattr(getattr(self.model, "stack", None), "small_states", False):
            raise UserError(f"{settings}: {self.config.task} keeps no states in 8 bits; False is allowed")
        states = jax.eval_shape(lambda: self.model.initial_state(1, self.model.dtype, max_length=1))
        small = lambda leaf: isinstance(leaf, SmallVectors)
        if not any(map(small, jax.tree.leaves(states, is_leaf=small))):
            raise UserError(
                f"{settings}: streams of config.model.pattern={tuple(self.config.model.pattern)} keep sums and tails, "
                "neither keys and values nor memories; False is allowed"
            )

    @functools.cached_property
    def kernels(self):
        """The kernels that `config.quantization.rules` choose."""
        if self.config.quantization.mode == "none":
            return {}
        return select(find_kernels(super().init), self.config.quantization.rules, field="config.quantization.rules")

    def make_model(self, section):
        model = super().make_model(section)
        if not self.config.quantization.states or type(model) is not Decoder:
            return model
        return model.clone(stack=model.stack.clone(small_states=True))

    def init(self, key: jax.Array):
        params, settings = super().init(key), self.config.quantization
        if not settings.stored or not self.kernels:
            return params
        return quantize_params(params, self.kernels, settings.mode, settings.group)

    def rounded(self, params):
        """Parameters as the model uses them; the same ones of those."""
        settings = self.config.quantization
        if settings.stored or not self.kernels:
            return params
        return round_params(params, self.kernels, settings.mode, settings.group)

    def loss(self, params, *args, **kwargs):
        return super().loss(self.rounded(params), *args, **kwargs)

    def evaluate(self, params, *args, **kwargs):
        return super().evaluate(self.rounded(params), *args, **kwargs)

    def continue_text(self, params, *args, **kwargs):
        return super().continue_text(self.rounded(params), *args, **kwargs)

    def predict(self, params, *args, **kwargs):
        return super().predict(self.rounded(params), *args, **kwargs)
