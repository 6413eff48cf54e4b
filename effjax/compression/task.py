"""Any task with quantised parameters: integers, as a checkpoint holds them, or floats that training learns to round."""

import functools

import jax

from effjax.compression.kernels import find_kernels, select
from effjax.compression.quantize import MODES, quantize_params, round_params
from effjax.errors import UserError
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
    which every use of the model rounds, with straight-through gradients: quantization-aware training.
    """

    def __init__(self, config):
        mode = config.quantization.mode
        if mode not in ("none", *MODES):
            raise UserError(f"config.quantization.mode={mode!r}; none or one of {', '.join(MODES)} is allowed")
        if mode != "none" and (config.quantization.group < 2 or config.quantization.group % 2):
            raise UserError(f"config.quantization.group={config.quantization.group}; 2, 4, 6, … are allowed")
        super().__init__(config)
        stack = getattr(getattr(self, "model", None), "stack", None)
        if config.quantization.states and not getattr(stack, "small_states", False):
            raise UserError(f"config.quantization.states=True: {config.task} has no streams; False is allowed")

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
        """Parameters as the model uses them."""
        settings = self.config.quantization
        if settings.stored or not self.kernels:
            return params
        return round_params(params, self.kernels, settings.mode, settings.group)

    def loss(self, params, *args, **kwargs):
        return super().loss(self.rounded(params), *args, **kwargs)

    def continue_text(self, params, *args, **kwargs):
        return super().continue_text(self.rounded(params), *args, **kwargs)

    def predict(self, params, *args, **kwargs):
        return super().predict(self.rounded(params), *args, **kwargs)
