"""The Conformer encoder: published sizes, padding, packing, streams, and what its parts reduce to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.layers.conformer_attention import ConformerAttention
from effjax.layers.subsampling import ConvolutionalSubsampling
from effjax.models.conformer import SIZES, ConformerBlock, ConformerEncoder
from effjax.models.speech import TransducerModel
from effjax.tasks import make_task
from effjax.training.config import load_config

FEATURES = 6
STREAM = ConformerEncoder(8, 2, 2, kernel_size=5, chunk_size=2, left_chunks=2)
WHOLE = STREAM.clone(chunk_size=0)
LENGTHS = np.array([37, 22, 5])


@functools.cache
def variables():
    """Parameters, and statistics that are not those of nothing."""
    made = jax.jit(STREAM.init)(jax.random.key(0), jnp.zeros((1, 8, FEATURES)))
    rng = np.random.default_rng(1)
    stats = jax.tree.map(lambda x: jnp.asarray(rng.uniform(0.5, 1.5, x.shape), jnp.float32), made["batch_stats"])
    params = jax.tree.map(
        lambda x: x + 0.3 * jnp.asarray(rng.normal(size=x.shape), jnp.float32) if x.ndim == 2 else x, made["params"]
    )
    return {"params": params, "batch_stats": stats}


def frames(length=37, rows=3):
    return np.random.default_rng(0).normal(size=(rows, length, FEATURES)).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("model", "train"))
def run(made, model, x, mask, train):
    def loss(x):
        (y, real, _), new = model.apply(made, x, padding_mask=mask, deterministic=not train, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(y)), (y, real, new["batch_stats"])

    gradient, results = jax.grad(loss, has_aux=True)(x)
    return gradient, *results


def encode(model, x, mask, train=False):
    """Gradient of the inputs, outputs, which of them are real, statistics."""
    return run(variables(), model, x, mask, train=train)


@pytest.mark.parametrize(
    ("model", "train"),
    [(WHOLE, True), (STREAM, False)],
    ids=["training", "chunks"],
)
@pytest.mark.slow
def test_padding_touches_nothing(model, train):
    """(e) 1: neither NaN nor more of it changes an output, a gradient or a statistic."""
    x, mask = frames(), np.arange(37) < LENGTHS[:, None]
    more = np.pad(x, ((0, 0), (0, 11), (0, 0)), constant_values=np.nan)
    more[:, :37][~mask] = np.nan
    gradient, y, real, stats = encode(model, jnp.where(mask[..., None], x, 0), mask, train)
    assert real.sum(1).tolist() == [10, 6, 2]
    theirs = encode(model, more, np.pad(mask, ((0, 0), (0, 11))), train)
    np.testing.assert_allclose(theirs[0][:, :37], gradient, atol=2e-4)
    assert not np.asarray(theirs[0][:, 37:]).any() and not np.asarray(y)[~np.asarray(real)].any()
    np.testing.assert_allclose(theirs[1][:, :10], y, atol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), theirs[3], stats)


@pytest.mark.slow
def test_utterances_one_by_one_are_those_of_the_batch():
    x, mask = frames(), np.arange(37) < LENGTHS[:, None]
    together = encode(WHOLE, jnp.where(mask[..., None], x, 0), mask)[1]
    for row in (1, 2):
        alone = encode(WHOLE, x[row : row + 1, : LENGTHS[row]], None)[1]
        np.testing.assert_allclose(together[row, : alone.shape[1]], alone[0], atol=2e-5)


@pytest.mark.parametrize("pieces", [(1, 1, 1, 1, 1), pytest.param((2, 1, 2), marks=pytest.mark.slow)])
def test_a_stream_gives_what_one_pass_gives(pieces):
    """Chunk by chunk or several at a time; the last one is cut short by the end of the utterance."""
    piece = STREAM.piece
    assert piece == 8
    x, mask = frames(40), np.arange(40) < np.array([37, 22, 5])[:, None]
    x[~mask] = np.nan
    whole = np.asarray(encode(STREAM, x, mask)[1])
    step = jax.jit(lambda x, state, mask: STREAM.apply(variables(), x, state, padding_mask=mask))
    state, outputs = STREAM.initial_state(3, FEATURES), []
    size = sum(leaf.size for leaf in jax.tree.leaves(state))
    for part, keep in zip(*(np.split(array, np.cumsum(pieces)[:-1] * piece, axis=1) for array in (x, mask))):
        y, _, state = step(part, state, keep)
        outputs.append(y)
    np.testing.assert_allclose(np.concatenate(outputs, 1), whole, atol=2e-5)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == size


@pytest.mark.slow
def test_a_chunk_sees_no_later_chunk_and_the_past_only_so_far():
    """Bit for bit, and no gradient: two blocks of two chunks to the left and five taps reach back 2 (4 + 4) outputs."""
    x, mask = frames(96, rows=1), np.ones((1, 96), bool)
    y = np.asarray(encode(STREAM, x, mask)[1])
    later = x.copy()
    later[:, 40:] += 1
    changed = np.asarray(encode(STREAM, later, mask)[1])
    np.testing.assert_array_equal(changed[:, :10], y[:, :10])
    assert (changed[:, 10:] != y[:, 10:]).any(-1).all()


@pytest.mark.slow
def test_packed_utterances_do_not_see_each_other():
    model = ConformerEncoder(8, 1, 2, kernel_size=5, subsample=False)
    x = np.random.default_rng(0).normal(size=(1, 12, 8)).astype(np.float32)
    made = jax.jit(model.init)(jax.random.key(0), x)
    run = jax.jit(lambda x, ids: model.apply(made, x, segment_ids=ids)[0])
    together = run(x, jnp.array([[0] * 7 + [1] * 5]))
    for part in (slice(0, 7), slice(7, 12)):
        alone = model.apply(made, x[:, part])[0]
        np.testing.assert_allclose(together[:, part], alone, atol=2e-5)


def test_subsampled_lengths():
    """(e) 8: ceil(ceil(L / 2) / 2), causal or not."""
    for causal in (False, True):
        layer = ConvolutionalSubsampling(2, causal)
        for length in range(1, 51):
            mask = jax.ShapeDtypeStruct((1, length), jnp.bool_)
            x = jax.ShapeDtypeStruct((1, length, 5), jnp.float32)
            init = lambda x, mask, layer=layer: layer.init_with_output(jax.random.key(0), x, padding_mask=mask)[0]
            y, real, _ = jax.eval_shape(init, x, mask)
            assert y.shape[1] == real.shape[1] == -(-length // 4)


@pytest.mark.slow
def test_without_feed_forwards_a_block_is_attention_and_convolution():
    """(e) 6."""
    block = ConformerBlock(8, 2, kernel_size=3)
    x = np.random.default_rng(0).normal(size=(1, 6, 8)).astype(np.float32)
    made = jax.jit(block.init)(jax.random.key(0), x)
    params = dict(made["params"])
    for name in ("feed_forward_1", "feed_forward_2"):
        params[name] = jax.tree.map(jnp.zeros_like, params[name])

    def rest(block, x):
        x = x + block.attention(block.norms[1](x))[0]
        x = x + block.convolution(block.norms[2](x))[0]
        return block.norms[4](x)

    made = made | {"params": params}
    y = jax.jit(lambda made, x: (block.apply(made, x)[0], block.apply(made, x, method=rest)))(made, x)
    np.testing.assert_allclose(y[0], y[1], atol=1e-6)


@pytest.mark.parametrize(("size", "published"), [("small", 10.3e6), ("medium", 30.7e6), ("large", 118.8e6)])
def test_parameter_counts(size, published):
    """(e) 9 to the unit; the whole model, with 1,024 symbols, within 1.5 % of the paper's rounded figure."""
    sizes = dict(SIZES[size])
    decoder, (d, layers, taps) = sizes.pop("decoder_width"), (sizes["d_model"], sizes["n_layers"], 32)
    encoder = ConformerEncoder(**sizes)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    model = TransducerModel(encoder, 1024, decoder_width=decoder)
    arguments = (jnp.zeros((1, 8, 80)), jnp.ones((1, 2), jnp.int32), jnp.full(1, 2))
    init = lambda key: model.init(key, *arguments, padding_mask=jnp.ones((1, 8), bool), method="nats")
    params = jax.eval_shape(init, jax.random.key(0))["params"]
    feed, attention = 8 * d**2 + 5 * d + 2 * d, 5 * d**2 + 4 * d + 2 * d + 2 * d
    convolution = 3 * d**2 + 3 * d + taps * d + 2 * d + 2 * d
    assert count(params["encoder"]["blocks"]) == layers * (2 * feed + attention + convolution + 2 * d)
    subsampling = (9 * d + d) + (9 * d**2 + d) + (20 * d**2 + d)
    assert count(params["encoder"]["subsampling"]) == subsampling
    assert abs(count(params) / published - 1) < 0.015


@pytest.mark.parametrize("preset", ["", "medium", "large"])
def test_presets_are_the_published_sizes(preset):
    model = make_task(load_config(f"configs/conformer_librispeech.py:{preset}")).model
    sizes = SIZES[preset or "small"]
    fields = {name: getattr(model.encoder, name) for name in ("d_model", "n_layers", "n_heads")}
    assert fields | {"decoder_width": model.decoder_width} == sizes and model.encoder.kernel_size == 32


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ConformerEncoder(10, 1, 4), "n_heads=4"),
        (lambda: ConformerEncoder(8, 0, 2), "n_layers=0"),
        (lambda: ConformerEncoder(8, 1, 2, chunk_size=-1), "chunk_size=-1"),
        (lambda: WHOLE.initial_state(1, FEATURES), "chunk_size=0 cannot stream"),
        (lambda: STREAM.apply(variables(), frames(9), STREAM.initial_state(3, FEATURES)), "9 frames; pieces"),
        (lambda: STREAM.apply(variables(), frames(12), STREAM.initial_state(3, FEATURES)), "multiples of chunk_size=2"),
        (lambda: WHOLE.apply(variables(), frames(), segment_ids=np.zeros((3, 37), int)), "segment_ids with subsample"),
        (lambda: ConformerAttention(8, 2, 4, position_encoding="learned"), "position_encoding='learned'"),
        (lambda: ConformerAttention(8, 2, 4, position_encoding="rotary", chunk_size=2), "chunk_size=2 needs"),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
