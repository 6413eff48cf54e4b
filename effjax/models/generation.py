"""Sampling from a decoder, one token at a time, with the state that its mixers carry."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from effjax.errors import UserError
from effjax.models.decoder import Decoder


def generate(
    model: Decoder,
    params,
    prompt: Int[Array, "B T"],
    *,
    length: int,
    key: jax.Array,
    temperature: float = 1.0,
    top_k: int = 0,
) -> Int[Array, "B L"]:
    """Continues prompts: `x_t ~ softmax(logits(x_<t) / temperature)`, among the `top_k` likeliest where given.

    The prompt is one piece of the stream and each new token another; nothing is computed twice.

    Args:
      model: a causal decoder.
      params: its parameters.
      prompt: ids to continue, at least one per row.
      length: number of tokens to add.
      key: PRNG key of the draws.
      temperature: 0 takes the likeliest token.
      top_k: 0 draws from all tokens.

    Returns:
      The new tokens.

    Raises:
      UserError: an empty prompt, one that does not fit the model's positions, or a setting out of range.
    """
    check_generation(model, prompt.shape[1], length, temperature, top_k)
    return _generate(model, params, prompt, key, jnp.float32(temperature), length=length, top_k=top_k)


def check_generation(model: Decoder, prompt_length: int, length: int, temperature: float, top_k: int) -> None:
    """Raises UserError where `generate` could not continue a prompt of so many tokens with these settings."""
    if prompt_length < 1:
        raise UserError("the prompt is empty; it needs at least one token")
    if length < 1:
        raise UserError(f"length={length}; at least one token must be generated")
    if temperature < 0:
        raise UserError(f"temperature={temperature}; 0 or more is allowed")
    if not 0 <= top_k <= model.vocab_size:
        raise UserError(f"top_k={top_k}; 0 (all) to {model.vocab_size} is allowed")
    total = prompt_length + length
    if model.max_length is not None and total > model.max_length:
        raise UserError(
            f"a prompt of {prompt_length} tokens and {length} new ones exceed the {model.max_length} positions "
            "of the model"
        )


@functools.partial(jax.jit, static_argnames=("model", "length", "top_k"))
def _generate(model, params, prompt, key, temperature, *, length, top_k):
    state = model.initial_state(prompt.shape[0], model.dtype, max_length=prompt.shape[1] + length)
    hidden, state = model.apply({"params": params}, prompt, state, method="hidden")
    logits = model.apply({"params": params}, hidden[:, -1:], method="logits")

    def draw(carry, key):
        logits, state = carry
        token = sample(key, logits[:, -1], temperature, top_k)
        logits, state = model.apply({"params": params}, token[:, None], state)
        return (logits, state), token

    keys = jax.random.split(key, length)
    (logits, _), tokens = jax.lax.scan(draw, (logits, state), keys[:-1])
    last = sample(keys[-1], logits[:, -1], temperature, top_k)
    return jnp.concatenate([tokens, last[None]]).T


def sample(key: jax.Array, logits: Float[Array, "B V"], temperature: Float[Array, ""], top_k: int) -> Int[Array, "B"]:
    """One token per row: the likeliest at temperature 0, else a draw among the `top_k` likeliest (0: all)."""
    if top_k:
        threshold = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits >= threshold, logits, -jnp.inf)
    drawn = jax.random.categorical(key, logits / jnp.maximum(temperature, 1e-6))
    return jnp.where(temperature > 0, drawn, jnp.argmax(logits, axis=-1)).astype(jnp.int32)
