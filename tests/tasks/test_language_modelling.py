"""The task: scores against one pass, counts, carried states, bits per original byte, mistakes found at the start."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.data import Corpus, get_vocabulary
from effjax.errors import UserError
from effjax.tasks import make_task
from effjax.training.config import load_config
from effjax.training.sharding import AXES, make_mesh


@functools.cache
def small_task(vocabulary="bytes", **settings):
    """A task on a small model and 200 random bytes a split, and its parameters."""
    return with_random_text(make_task(small_config(vocabulary, **settings)))


def with_random_text(task):
    rng = np.random.default_rng(0)
    text = {
        split: rng.integers(97, 103, 200).astype(np.uint8).tobytes() + b"\n" for split in ("train", "valid", "test")
    }
    splits = {split: task.vocabulary.encode(part) for split, part in text.items()}
    task.corpus = Corpus("random", task.vocabulary, splits, {split: len(part) for split, part in text.items()})
    return task, jax.jit(task.init)(jax.random.key(0))


def small_config(vocabulary="bytes", **settings):
    config = load_config("configs/reformer_enwik8.py:tiny").unlock()
    config.batch_size = 2
    config.data.update(vocabulary=vocabulary, length=20)
    config.model.update(pattern=("local",), n_layers=1, d_model=16, d_ff=16, n_heads=1, head_dim=16)
    config.model.update(positions="none", residual="residual")
    config.model.local.chunk_size = 8
    config.eval.update(context=32, stride=8, batch_size=3)
    if vocabulary == "drop_newlines":
        config.eval.metric = "bits_per_symbol"
    for key, value in settings.items():
        *groups, name = key.split("__")
        functools.reduce(lambda group, part: group[part], groups, config)[name] = value
    return config


EIGHT = pytest.param(8, marks=[pytest.mark.eight_devices, pytest.mark.slow])


def nats_of_one_pass(task, params, tokens):
    tokens = jnp.asarray(tokens, jnp.int32)[None]
    return np.asarray(task.model.apply({"params": params}, tokens[:, :-1], tokens[:, 1:], method="nats")[0][0])


@pytest.mark.parametrize("devices", [None, EIGHT])
def test_evaluate_scores_every_target_once(devices):
    task, params = small_task()
    mesh = devices and make_mesh(dict.fromkeys(AXES, 1) | {"data": -1}, jax.devices())
    one_pass = nats_of_one_pass(task, params, task.corpus.splits["test"])
    whole = task.evaluate(params, "test", context=256, stride=256, mesh=mesh)
    assert whole["targets"] == 200
    assert whole["bits_per_byte"] == pytest.approx(one_pass.mean() / math.log(2), rel=1e-5)
    # A context that covers the two chunks in view of every scored target changes nothing.
    assert task.evaluate(params, "test", mesh=mesh)["targets"] == 200
    assert task.evaluate(params, "test", limit=50, mesh=mesh)["targets"] == 50


@functools.cache
def streaming_task():
    """A small Transformer-XL, which remembers 8 tokens, and 256 when it is scored."""
    config = load_config("configs/transformer_xl_enwik8.py:tiny").unlock()
    config.model.update(d_model=16, d_ff=16, n_heads=1, head_dim=16, n_layers=2)
    config.model.transformer_xl.memory_length = 8
    config.eval.context = 16
    config.eval.model = (("transformer_xl.memory_length", 256), ("transformer_xl.same_length", True))
    return with_random_text(make_task(config))


@pytest.mark.parametrize(
    "streams, devices",
    [
        pytest.param(3, None, marks=pytest.mark.slow),
        pytest.param(3, 8, marks=[pytest.mark.eight_devices, pytest.mark.slow]),
        (1, None),
    ],
)
def test_streams_score_every_target_once_with_all_that_came_before_it(streams, devices):
    task, params = streaming_task()
    mesh = devices and make_mesh(dict.fromkeys(AXES, 1) | {"data": -1}, jax.devices())
    tokens = task.corpus.splits["test"]
    stretch = -(-(len(tokens) - 1) // streams)
    one_pass = [nats_of_one_pass(task, params, tokens[i * stretch : (i + 1) * stretch + 1]) for i in range(streams)]
    scores = task.evaluate(params, "test", batch_size=streams, mesh=mesh)
    assert scores["targets"] == 200
    assert scores["bits_per_byte"] == pytest.approx(np.concatenate(one_pass).mean() / math.log(2), rel=1e-5)
    assert task.scorer_of(params) is task.scorer_of(params)


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(eval__reader="pages"), "config.eval.reader='pages'"),
        (
            dict(eval__reader="streams", model__pattern=("full",), model__full={"rotary": False}),
            "eval.reader='streams'",
        ),
        (dict(eval__model=(("local.chunk", 4),)), "config.eval.model sets 'local.chunk'"),
        (dict(eval__model=(("local.chunk_size", 0.5),)), "config.eval.model sets local.chunk_size=0.5; expected int"),
        (dict(eval__model=(("d_ff", 8),)), "changes the parameters"),
        (dict(eval__model=("d_ff", 8)), "no tuple of pairs"),
    ],
)
def test_mistakes_in_how_to_score_are_named(settings, words):
    with pytest.raises(UserError, match=words):
        make_task(small_config(**settings))


def test_bits_per_original_byte():
    task, params = small_task("drop_newlines")
    scores = task.evaluate(params, "test")
    assert scores["targets"] == 199  # of 201 bytes, one is a newline and one has nothing before it
    assert scores["bits_per_original_byte"] == pytest.approx(scores["bits_per_symbol"] * 200 / 201)


def test_loss_weighs_targets():
    task, params = small_task()
    tokens = np.asarray(task.corpus.splits["train"][:42], np.int32).reshape(2, 21)
    weights = np.random.default_rng(1).integers(0, 2, (2, 20)).astype(np.float32)
    batch = dict(inputs=jnp.asarray(tokens[:, :-1]), targets=jnp.asarray(tokens[:, 1:]), weights=jnp.asarray(weights))
    loss, (metrics, carry) = task.loss(params, batch)
    nats = np.stack([nats_of_one_pass(task, params, row) for row in tokens])
    assert float(loss) == pytest.approx((nats * weights).sum() / weights.sum(), rel=1e-5)
    assert carry == () and float(metrics["nats"][1]) == weights.sum()


def test_streams_carry_their_state_and_start_again():
    task, params = small_task(data__reader="streams")
    tokens = np.asarray(task.corpus.splits["train"][:122], np.int32).reshape(2, 61)
    nats = np.stack([nats_of_one_pass(task, params, row) for row in tokens])
    carry = task.initial_carry(2)
    for start in (0, 20, 40, 0):
        piece = slice(start, start + 20)
        batch = dict(
            inputs=jnp.asarray(tokens[:, :-1][:, piece]),
            targets=jnp.asarray(tokens[:, 1:][:, piece]),
            reset=jnp.full(2, start == 0),
        )
        loss, (_, carry) = jax.jit(task.loss)(params, batch, carry)
        assert float(loss) == pytest.approx(nats[:, piece].mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(dtype="float16"), "config.dtype='float16'"),
        (dict(data__reader="random"), "config.data.reader='random'"),
        (dict(data__reader="streams", model__pattern=("full",), model__full={}), "every mixer of config.model.pattern"),
        (dict(vocabulary="drop_newlines", eval__metric="bits_per_byte"), "bits_per_symbol, bits_per_original_byte"),
        (dict(sample__prompt=""), "the prompt is empty"),
        (dict(vocabulary="text8", sample__prompt="The"), "byte 0x54"),
        (dict(sample__top_k=1000), "top_k=1000"),
        (dict(task="singing"), "config.task='singing'"),
        (
            dict(model__positions="axial", model__axial__shape=(4, 4), model__axial__dims=(8, 8)),
            "must not exceed the 16 positions",
        ),
    ],
)
def test_mistakes_are_found_before_any_work(settings, message):
    settings = dict(settings)
    with pytest.raises(UserError, match=message):
        make_task(small_config(**settings))


def test_continue_text_speaks_bytes():
    task, params = small_task()
    text = task.continue_text(params, jax.random.key(0), prompt="caf\udce9", length=9, temperature=1.0, top_k=0)
    assert isinstance(text, str) and 0 < len(text) <= 9
    assert get_vocabulary("bytes").size == task.model.vocab_size
