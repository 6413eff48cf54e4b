"""Small decoders of every residual mode, as the laws see them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from effjax.layers import MIXERS, AxialPositions, FeedForward, Vocabulary
from effjax.models.block import Period
from effjax.models.decoder import Decoder
from effjax.models.stack import Stack, pure_blocks

MODES = ("residual", "post_norm", "reversible", "exact")
VOCABULARY, D_MODEL = 11, 16
OPTIONS = {
    "full": {},
    "local": dict(chunk_size=5),
    # A chunk that holds every bucket whole: sorted chunks give the dense definition, which streams.
    "lsh": dict(chunk_size=64, n_buckets=4, n_hashes=2, same_bucket=True, look_back="within_round"),
    # Many chunks, which sorting fills from everywhere in the sequence.
    "chunked_lsh": dict(chunk_size=8, n_buckets=4, n_hashes=2),
    "strided": dict(stride=4),
    "fixed": dict(block=8, summary=2),
    "log_sparse": dict(local=2),
    "big_bird": dict(block=4),
    "window": dict(window=9, sinks=1),
    "longformer": dict(window=9, global_tokens=1),
    "adaptive_span": dict(max_span=12, ramp=4, initial_span=0.5),
    "transformer_xl": dict(memory_length=12),
    "performer": dict(n_features=12, chunk_size=8),
    "light_conv": dict(kernel_size=5),
    "dynamic_conv": dict(kernel_size=5),
    "depthwise_conv": dict(kernel_size=5),
    "lsra": dict(kernel_size=5),
}


def make_stack(mode, *, pattern=("full", "local", "lsh"), repeats=2, dropout_rate=0.0, dtype=jnp.float32, **kwargs):
    """A stack of small blocks, of width `D_MODEL` unless told otherwise."""
    width = dict(d_model=D_MODEL, n_heads=2, head_dim=8) | kwargs
    mixers = [
        functools.partial(MIXERS[name.removeprefix("chunked_")], dropout_rate=dropout_rate, **width, **OPTIONS[name])
        for name in pattern
    ]
    feed_forward = functools.partial(FeedForward, width["d_model"], 2 * width["d_model"], dropout_rate=dropout_rate)
    norm = "post" if mode == "post_norm" else "pre"
    period = Period(tuple(mixers), feed_forward, dropout_rate, dtype, norm=norm)
    return Stack(period, repeats, residual="residual" if mode == "post_norm" else mode)


@functools.cache
def make_decoder(mode, *, dropout_rate=0.0, dtype=jnp.float32, **kwargs):
    """A decoder around such a stack, and its parameters."""
    stack = make_stack(mode, dropout_rate=dropout_rate, dtype=dtype, **kwargs)
    positions = functools.partial(AxialPositions, (8, 8), (8, stack_width(stack) - 8))
    vocabulary = functools.partial(Vocabulary, VOCABULARY, stack_width(stack))
    model = Decoder(vocabulary, stack, positions, dropout_rate=dropout_rate, dtype=dtype)
    return model, jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))


def stack_width(stack):
    return stack.period.make_mixers[0].keywords["d_model"]


def ids(shape, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY, shape).astype(np.int32)


def naive_stack(stack, params, x, key):
    """The stack's equations as Python loops over repeats and blocks: no scan, no custom gradient."""
    params = params["params"]["period"]
    names = stack.period.names()
    blocks = pure_blocks(stack.period.clone(parent=None), deterministic=False)
    keys = jax.random.split(key, (stack.repeats, len(blocks), 2))
    consts = dict(positions=None, padding_mask=None, segment_ids=None)
    x1 = x2 = x
    for repeat in range(stack.repeats):
        for i, ((f, g), (mixing, feeding)) in enumerate(zip(blocks, names)):
            own = jax.tree.map(lambda leaf, repeat=repeat: leaf[repeat], params)
            mix = lambda x, f=f, own={mixing: own[mixing]}, key=keys[repeat, i, 0]: f(own, x, consts, None, key, None)[
                0
            ]
            feed = lambda x, g=g, own={feeding: own[feeding]}, key=keys[repeat, i, 1]: g(
                own, x, consts, None, key, None
            )[0]
            if stack.period.norm == "post":
                x1 = feed(mix(x1))
            elif stack.residual == "residual":
                x1 = x1 + mix(x1)
                x1 = x1 + feed(x1)
            else:
                x1 = x1 + mix(x2)
                x2 = x2 + feed(x1)
    return x1 if stack.residual == "residual" else jnp.concatenate([x1, x2], axis=-1)
