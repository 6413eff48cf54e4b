"""A byte language model in Flax NNX; the mixer and the reversible stack come from effjax through `flax.nnx.bridge`."""

import argparse
import functools
import pathlib

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from flax.nnx import bridge

import effjax

WIDTH, HEADS, LENGTH = 32, 2, 64
TEXT = pathlib.Path(__file__).read_bytes()  # what there is to learn here


class LanguageModel(nnx.Module):
    """Bytes, a mixer, a reversible stack of Transformer blocks, and a head over its two streams."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(256, WIDTH, rngs=rngs)
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.last_norm = nnx.LayerNorm(2 * WIDTH, rngs=rngs)
        self.head = nnx.Linear(2 * WIDTH, 256, rngs=rngs)

        x = jnp.zeros((1, LENGTH, WIDTH))  # what makes the bridged modules' parameters
        sizes = dict(d_model=WIDTH, n_heads=HEADS, head_dim=WIDTH // HEADS)
        mixer = effjax.MIXERS["window"](**sizes, window=16, rotary=True)
        self.mixer = bridge.lazy_init(bridge.ToNNX(mixer, rngs=rngs), x)
        period = effjax.Period(
            make_mixers=(functools.partial(effjax.MIXERS["local"], **sizes, chunk_size=16),),
            make_feed_forward=functools.partial(effjax.FeedForward, WIDTH, 2 * WIDTH),
        )
        stack = effjax.Stack(period, repeats=2, residual="reversible")
        self.stack = bridge.lazy_init(bridge.ToNNX(stack, rngs=rngs), x)

    def __call__(self, tokens):
        x = self.embed(tokens)
        mixed, _ = self.mixer(self.norm(x))  # the second is the state of a stream
        y, _ = self.stack(x + mixed)  # both streams, [B, T, 2 WIDTH]
        return self.head(self.last_norm(y))


def batch(step):
    """Eight stretches of the text."""
    data = np.frombuffer(TEXT, np.uint8).astype(np.int32)
    starts = np.random.default_rng(step).integers(0, len(data) - LENGTH - 1, (8, 1))
    rows = data[starts + np.arange(LENGTH + 1)]
    return rows[:, :-1], rows[:, 1:]


@nnx.jit
def step(model, optimizer, inputs, targets):
    """One update."""

    def loss(model):
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(model(inputs), targets))

    value, grads = nnx.value_and_grad(loss)(model)
    optimizer.update(model, grads)
    return value


def main(steps: int) -> list[float]:
    """Trains; returns the loss of every step, in nats per byte."""
    model = nnx.jit(lambda: LanguageModel(nnx.Rngs(0)))()
    optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)
    return [float(step(model, optimizer, *batch(i))) for i in range(steps)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    for number, loss in enumerate(main(parser.parse_args().steps), 1):
        print(f"step {number:3d}  loss {loss:.3f}")
