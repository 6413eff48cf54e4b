"""What the memory saves: scoring with it against computing a whole window anew for every byte (`-rP` shows how much).

`taskset -c 0 python -m tests.test_transformer_xl_evaluation` times it in programs that are optimised, as those of tests
are not. The paper reports that evaluation is 1,874 times as fast as that of a model without memory, at 3,800 bytes of
context.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.accounting.flops import count_flops
from effjax.models.build import make_decoder
from effjax.training.config import load_config, set_fields

VOCABULARY = 204


def models(source, memory, **sizes):
    """The model as it is scored, and the one without a memory that sees a window of as many bytes."""
    config = load_config(source).model.unlock()
    config.update(sizes)
    set_fields(config, tuple(load_config(source).eval.model), source="eval.model")
    config.transformer_xl.memory_length = memory
    scored = make_decoder(config, vocab_size=VOCABULARY)
    frozen = scored.adapted([{"frozen": True} for _ in config.pattern])
    config.update(pattern=("full",), full={})
    return scored, frozen, make_decoder(config, vocab_size=VOCABULARY)


def last_scores(model):
    """Scores of what follows a window."""

    def run(params, tokens):
        hidden, _ = model.apply({"params": params}, tokens, method="hidden")
        return model.apply({"params": params}, hidden[:, -1:], method="logits")

    return run


def stream(model):
    """Scores of what follows each token, and the memory."""
    return lambda params, tokens, state: model.apply({"params": params}, tokens, state)


def tokens(length):
    return jax.ShapeDtypeStruct((1, length), jnp.int32)


def parameters(model):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"])


def test_flops_at_3800_bytes_of_context():
    scored, frozen, plain = models("configs/transformer_xl_enwik8.py:large", 3800)
    params = parameters(scored)
    windows = {
        "the same attention in a window of 3,800": count_flops(last_scores(scored), params, tokens(3800)),
        "plain attention in a window of 3,800": count_flops(last_scores(plain), parameters(plain), tokens(3800)),
    }
    for length in (128, 1):
        for name, model in (("inputs in memory", scored), ("keys and values in memory", frozen)):
            state = jax.eval_shape(functools.partial(model.initial_state, 1, max_length=length))
            _, state = jax.eval_shape(stream(model), params, tokens(length), state)
            each = count_flops(stream(model), params, tokens(length), state) / length
            print(f"{length} at a time, {name}: {each:.4g} FLOPs a byte", end="")
            for window, flops in windows.items():
                print(f"; {window}: {flops:.4g}, {flops / each:,.0f} times as many", end="")
            print()
            if model is frozen:
                assert all(flops / each > 1000 for flops in windows.values())


@pytest.mark.slow
def test_time_at_512_bytes_of_context():
    """One core: a segment of 64 bytes with a memory of 512, against 512 bytes for each byte."""
    memory, length = 512, 64
    sizes = dict(d_model=128, d_ff=512, n_heads=4, head_dim=32, n_layers=4)
    scored, frozen, _ = models("configs/transformer_xl_enwik8.py", memory, **sizes)
    params = scored.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    text = jnp.asarray(np.random.default_rng(0).integers(0, VOCABULARY, (1, memory)))
    with_memory, anew = jax.jit(stream(frozen)), jax.jit(last_scores(scored))
    _, state = with_memory(params, text, frozen.initial_state(1, max_length=memory))

    def seconds(run, *arguments):
        times = []
        for _ in range(8):
            start = time.perf_counter()
            jax.block_until_ready(run(*arguments))
            times.append(time.perf_counter() - start)
        return float(np.median(times[1:]))

    each = seconds(with_memory, params, text[:, :length], state) / length
    window = seconds(anew, params, text)
    flops = count_flops(last_scores(scored), params, text) / count_flops(
        stream(frozen), params, text[:, :length], state
    )
    print(f"with a memory {1e3 * each:.3f} ms a byte, anew {1e3 * window:.1f} ms: {window / each:,.0f} times as long")
    print(f"FLOPs: {flops * length:,.0f} times as many")
    assert window > each


if __name__ == "__main__":
    test_time_at_512_bytes_of_context()
