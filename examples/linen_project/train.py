"""A byte language model in Flax Linen; attention, mixer and reversible stack come from effjax."""

import argparse
import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import effjax

WIDTH, HEADS, LENGTH = 32, 2, 64
TEXT = pathlib.Path(__file__).read_bytes()  # what there is to learn here


class Block(nn.Module):
    """A block with Flax's own attention, of another family: one line."""

    @nn.compact
    def __call__(self, x):
        attention_fn = effjax.attention_fn("window", window=16, causal=True)
        return x + nn.MultiHeadDotProductAttention(HEADS, attention_fn=attention_fn)(nn.LayerNorm()(x))


class LanguageModel(nn.Module):
    """Bytes, Flax's attention, a mixer, and a reversible stack of local blocks."""

    @nn.compact
    def __call__(self, tokens):
        sizes = dict(d_model=WIDTH, n_heads=HEADS, head_dim=WIDTH // HEADS)
        x = nn.Embed(256, WIDTH)(tokens) + self.param("positions", nn.initializers.normal(0.02), (LENGTH, WIDTH))
        x = Block()(x)

        mixer = effjax.MIXERS["full"](**sizes, rotary=True)
        mixed, _ = mixer(nn.LayerNorm()(x))  # the second is the state of a stream
        x = x + mixed

        period = effjax.Period(
            make_mixers=(functools.partial(effjax.MIXERS["local"], **sizes, chunk_size=16),),
            make_feed_forward=functools.partial(effjax.FeedForward, WIDTH, 2 * WIDTH),
        )
        y, _ = effjax.Stack(period, repeats=2, residual="reversible")(x)  # both streams, [B, T, 2 WIDTH]
        return nn.Dense(256)(nn.LayerNorm()(y))


def batch(step):
    """Eight stretches of the text."""
    data = np.frombuffer(TEXT, np.uint8).astype(np.int32)
    starts = np.random.default_rng(step).integers(0, len(data) - LENGTH - 1, (8, 1))
    rows = data[starts + np.arange(LENGTH + 1)]
    return rows[:, :-1], rows[:, 1:]


def main(steps: int) -> list[float]:
    """Trains; returns the loss of every step, in nats per byte."""
    model, optimizer = LanguageModel(), optax.adam(3e-3)
    params = jax.jit(model.init)(jax.random.key(0), batch(0)[0])["params"]

    @jax.jit
    def step(params, state, inputs, targets):
        def loss(params):
            logits = model.apply({"params": params}, inputs)
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, targets))

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    state, losses = optimizer.init(params), []
    for i in range(steps):
        params, state, value = step(params, state, *batch(i))
        losses.append(float(value))
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    for number, loss in enumerate(main(parser.parse_args().steps), 1):
        print(f"step {number:3d}  loss {loss:.3f}")
