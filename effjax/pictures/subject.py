"""What is looked at: a model under its configuration, its parameters, and what goes on in it on a real text."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from effjax.errors import UserError
from effjax.layers import Mixer
from effjax.models.decoder import Decoder, DecoderState

QUOTED = 60  # characters of the text that a title shows


class Subject:
    """A model to look at. Parameters are made, and the text is read, when they are first asked for.

    Args:
      task: a task whose model is a decoder or has an encoder, and, for what depends on a text, with a `corpus`.
      length: positions to look at, from the start of the valid split.
      params: trained parameters; None: those that training would start from.
      origin: where the parameters come from, for titles.

    Raises:
      UserError: a task whose model is of another kind.
    """

    def __init__(self, task, length: int, params=None, origin: str = "initial parameters"):
        self.task, self.length, self.origin, self._given = task, length, origin, params
        model = task.model if isinstance(task.model, Decoder) else getattr(task.model, "encoder", None)
        if not isinstance(model, Decoder) or "pattern" not in task.config.model:
            raise UserError(
                f"config.task={task.config.task!r}: its model is no single stack of mixers; language models, encoders, "
                "classifiers and forecasters are allowed"
            )
        mixer = task.config.get("mixer", "")  # of tasks that put one mixer into every block
        self.names = (mixer,) if mixer else tuple(task.config.model.pattern)
        self.mixers = model.stack.period.mixers()
        self.repeats = model.stack.repeats

    def blocks(self, name: str) -> list[int]:
        """The blocks of the period that a mixer of this name serves."""
        return [block for block, own in enumerate(self.names) if own == name]

    def layers(self, block: int) -> list[int]:
        """The layers, from 1, in which a block of the period is repeated."""
        return [1 + block + repeat * len(self.names) for repeat in range(self.repeats)]

    @functools.cached_property
    def params(self):
        if self._given is not None:
            return self._given
        key, _ = jax.random.split(jax.random.key(self.task.config.seed))  # as `training.state.initial_state`
        return jax.jit(self.task.init)(key)

    def mixer_params(self, block: int):
        """Parameters of the mixers of one block, with a leading axis over its repeats."""
        return self.params["stack"]["period"][f"mixing_{block}"]["mixer"]

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """The first `length` tokens of the valid split.

        Raises:
          UserError: the task has no running text, or one that is too short, or the model reads less.
        """
        if not hasattr(self.task, "corpus"):
            raise UserError(
                f"config.task={self.task.config.task!r} has no running text, which pictures of {', '.join(self.names)} "
                "are taken on; mixers whose pattern is a rule about positions are allowed"
            )
        longest = self.task.model.max_length
        if longest is not None and self.length > longest:
            raise UserError(f"--length={self.length}; at most the {longest} positions of the model are allowed")
        tokens = self.task.corpus.splits["valid"]
        if len(tokens) < self.length:
            raise UserError(f"--length={self.length}; the valid split has {len(tokens)} tokens, no more are allowed")
        return np.asarray(tokens[: self.length], np.int32)

    @property
    def text(self) -> str:
        """Says which text is looked at, and quotes its beginning."""
        text = self.task.symbols.decode(self.tokens).decode("utf-8", errors="replace")[:QUOTED]
        quoted = "".join(c if c.isascii() and c.isprintable() else "·" for c in text)
        return f"the first {self.length} tokens of the valid split, “{quoted}…”"

    @functools.cached_property
    def inside(self) -> list[dict]:
        """`look_inside` on the text."""
        params = self.params
        return look_inside(self.task.adapt(params).model, params, jnp.asarray(self.tokens[None]))


def look_inside(model: Decoder, params, tokens: Int[Array, "B T"]) -> list[dict]:
    """What the mixers of a model are given on a text, and the discrete choices that they make there.

    The model runs as it always does, in one pass; what is asked of it comes out where a stream's state would.

    Args:
      model: a decoder.
      params: its parameters.
      tokens: the text.

    Returns:
      Of every block of the period `{"inputs": [repeats, B, T, D], "choices": …}`; choices are what the mixer gives to
      be replayed, with a leading axis over repeats.
    """
    running = []

    def watch(method, args, kwargs, context):
        if context.method_name != "mix" or not isinstance(context.module, Mixer) or running:
            return method(*args, **kwargs)
        x, _, replay = args
        running.append(context.module)
        try:
            y, _, choices = method(x, None, replay, **kwargs)
        finally:
            running.pop()
        return y, {"inputs": x, "choices": choices}, choices

    @jax.jit
    def run(params, tokens):
        blank = [jnp.zeros(model.stack.repeats) for _ in model.stack.period.make_mixers]
        start = DecoderState(jnp.zeros((), jnp.int32), blank)
        with nn.intercept_methods(watch):
            _, end = model.apply({"params": params}, tokens, start, method="hidden")
        return end.blocks

    return run(params, tokens)
