"""Pictures of who attends to whom: the matrices behind them against what layers do, and the command."""

import functools
from argparse import Namespace

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest

from effjax import cli, visualize
from effjax.layers import (
    AdaptiveSpanAttention,
    FullAttention,
    LocalAttention,
    LongformerAttention,
    PerformerAttention,
    TransformerXLAttention,
)
from effjax.layers.convolution import DepthwiseConvolution, LightConvolution
from effjax.layers.lsra import LSRA
from effjax.layers.sparse import BigBirdAttention, FixedAttention, LogSparseAttention, StridedAttention
from effjax.layers.window import WindowAttention
from effjax.models.build import decoder_config, make_decoder
from effjax.ops.favor_features import favor_projection
from effjax.pictures.buckets import pair_kinds
from effjax.pictures.features import favor_errors
from effjax.pictures.figure import in_words
from effjax.pictures.sights import sight_of
from effjax.pictures.spans import soft_window, spans_of
from effjax.pictures.subject import look_inside
from effjax.tasks import make_task
from effjax.training.checkpoints import Checkpoints
from effjax.training.config import load_config
from effjax.training.optimizers import make_optimizer
from effjax.training.state import abstract_state
from effjax.training.workdir import open_workdir, save_config
from tests.laws import stacks
from tests.ops.favor_oracle import dense_favor
from tests.ops.lsh_oracle import count_meetings

LENGTH, WIDTH = 24, 8
make = functools.partial
LAYERS = {
    "both sides": make(FullAttention, causal=False),
    "local": make(LocalAttention, chunk_size=4, look_back=2),
    "big bird, both sides": make(BigBirdAttention, block=3, n_random=1, causal=False, among=6),
    "longformer": make(LongformerAttention, window=2, dilation=(1, 3), global_tokens=2),
    "convolution": make(LightConvolution, kernel_size=4, glu=False),
    "convolution, both sides": make(DepthwiseConvolution, kernel_size=4, causal=False),
    "memory": make(TransformerXLAttention, memory_length=6, same_length=True),
}
PATTERNS = {
    "window": make(WindowAttention, window=5, sinks=2),
    "strided": make(StridedAttention, stride=5, form="split"),
    "fixed": make(FixedAttention, block=6, summary=2, groups=2),
    "fixed, far": make(FixedAttention, block=6, summary=2, form="far"),
    "log-sparse": make(LogSparseAttention, local=2),
    "big bird": make(BigBirdAttention, block=3, n_random=1),
}


def any_params(module, *args):
    """Parameters of the right shapes, without a compilation."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype) / 2, shapes)


def reached(layer):
    """Which outputs of a layer change with each input, all heads together: one example for each changed input."""
    x = np.random.default_rng(0).normal(size=(1, LENGTH, WIDTH)).astype(np.float32)
    changed = np.repeat(x, LENGTH + 1, axis=0)
    changed[np.arange(LENGTH), np.arange(LENGTH)] += 1
    y = np.asarray(jax.jit(layer.apply)(any_params(layer, x), changed)[0])
    return (np.abs(y[:-1] - y[-1]).max(-1) > 1e-5).T


@pytest.mark.parametrize("name", LAYERS)
def test_a_picture_shows_what_the_layer_does(name):
    layer = LAYERS[name](d_model=WIDTH, n_heads=2, head_dim=4)
    sights = [sight_of(layer, head, length=2 * LENGTH, piece=LENGTH) for head in range(2)]
    if name != "memory":
        sights = [sight_of(layer, head, length=LENGTH, piece=LENGTH) for head in range(2)]
    seen = np.any([sight.pairs(head) > 0 for head, sight in enumerate(sights)], axis=0)[:, -LENGTH:]
    np.testing.assert_array_equal(seen, reached(layer))
    if getattr(layer, "causal", True):
        assert not np.triu(seen, 1).any()


@pytest.mark.parametrize("name", PATTERNS)
def test_the_parts_of_a_pattern_are_the_whole(name):
    layer = PATTERNS[name](d_model=WIDTH, n_heads=2, head_dim=4)
    for head in range(2):
        pairs = sight_of(layer, head, length=LENGTH, piece=LENGTH).pairs(head)
        np.testing.assert_array_equal(pairs > 0, layer.pattern.dense(LENGTH, head))


def test_kinds_of_pairs_are_told_apart():
    layer = LongformerAttention(8, 2, 4, window=2, dilation=(1, 3), global_tokens=2)
    near, far = (sight_of(layer, head, length=9, piece=9) for head in range(2))
    assert [name for name, _ in near.parts] == ["window", "global tokens"]
    assert near.pairs(0)[7].tolist() == [2, 2, 0, 0, 0, 1, 1, 1, 0]
    assert far.pairs(1)[7].tolist() == [2, 1, 0, 0, 1, 0, 0, 1, 0]
    assert (near.note, far.note) == ("window 2", "window 2, dilation 3")

    layer = StridedAttention(8, 1, 8, stride=4)
    sight = sight_of(layer, 0, length=8, piece=8)
    assert [name for name, _ in sight.parts] == ["window", "multiples of the stride"]
    assert sight.pairs(0)[7].tolist() == [0, 0, 0, 2, 1, 1, 1, 1]
    assert "stride 4" in sight.note

    layer = LSRA(8, 1, 4, kernel_size=2, conv_heads=1)
    sight = sight_of(layer, 0, length=4, piece=4)
    assert sight.pairs(0).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [2, 1, 1, 0], [2, 2, 1, 1]]


@pytest.mark.parametrize(
    ("settings", "last"),
    [
        (dict(), [2, 2, 2, 2, 1, 1, 1]),
        (dict(same_length=True), [0, 0, 0, 2, 1, 1, 1]),
        (dict(clamp_length=4), [3, 3, 2, 2, 1, 1, 1]),
    ],
)
def test_memory_stands_before_the_piece(settings, last):
    layer = TransformerXLAttention(8, 1, 8, memory_length=4, **settings)
    sight = sight_of(layer, 0, length=32, piece=3)
    assert sight.keys.tolist() == [-4, -3, -2, -1, 0, 1, 2]
    pairs = sight.pairs(0)
    assert pairs[-1].tolist() == last
    assert pairs[0, 5:].tolist() == [0, 0]
    coarse = sight_of(TransformerXLAttention(8, 1, 8, memory_length=90), 0, length=32, piece=60)
    assert len(coarse.keys) <= 32
    assert "every 5th" in coarse.note


def test_mixers_without_a_rule_have_no_sight():
    assert sight_of(PerformerAttention(8, 1, 8), 0, length=8, piece=8) is None
    assert sight_of(AdaptiveSpanAttention(8, 1, 8), 0, length=8, piece=8) is None


@pytest.mark.parametrize("look_back", ["circular", "within_round", "none"])
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("same_bucket", [False, True])
def test_pairs_that_meet_are_those_of_the_definition(look_back, rounds, same_bucket):
    buckets = np.random.default_rng(3).integers(0, 4, (LENGTH, rounds))
    rules = dict(look_back=look_back, same_bucket=same_bucket)
    kinds = pair_kinds(buckets, chunk_size=4, causal=False, **rules)
    counts = count_meetings(buckets[None, :, None], 4, **rules)[0, 0]
    np.testing.assert_array_equal((kinds == 1) | (kinds == 2), counts > 0)
    share = (buckets[:, None] == buckets[None]).any(-1)
    assert share[(kinds == 1) | (kinds == 3)].all()
    assert not share[kinds == 0].any()
    assert not np.triu(pair_kinds(buckets, chunk_size=4, causal=True, **rules), 1).any()


def test_looking_inside_a_model_gives_each_mixer_its_own_input():
    """The first mixer's input is the norm of the embeddings; buckets are those of every layer."""
    config = decoder_config(pattern=("lsh", "full"))
    config.update(d_model=16, d_ff=16, n_heads=2, head_dim=8, n_layers=4, residual="reversible", positions="none")
    config.lsh.update(chunk_size=4, n_buckets=4)
    model = make_decoder(config, vocab_size=11)
    params = any_params(model, jnp.zeros((1, 1), jnp.int32))["params"]
    tokens = jnp.asarray(stacks.ids((1, 12)))
    lsh, full = look_inside(model, params, tokens)
    assert lsh["inputs"].shape == full["inputs"].shape == (2, 1, 12, 16)
    assert full["choices"] == ()
    embeddings = params["vocabulary"]["embedding"]["embedding"][tokens]
    norm = params["stack"]["period"]["mixing_0"]["norm"]
    centred = embeddings - embeddings.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * norm["scale"][0] + norm["bias"][0]
    np.testing.assert_allclose(lsh["inputs"][0], expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(lsh["inputs"][0], lsh["inputs"][1])
    assert lsh["choices"].shape == (2, 1, 12, 2, 2)
    assert 0 <= int(lsh["choices"].min()) <= int(lsh["choices"].max()) < 4


def test_soft_windows_fall_over_the_ramp():
    distance = np.arange(1, 9)
    np.testing.assert_allclose(soft_window(0.0, distance, 4), [1, 0.75, 0.5, 0.25, 0, 0, 0, 0])
    np.testing.assert_allclose(soft_window(2.0, distance, 4), [1, 1, 1, 0.75, 0.5, 0.25, 0, 0])


@pytest.mark.parametrize(
    "settings",
    [dict(), pytest.param(dict(kernel="trigonometric", per_head=True, causal=False), marks=pytest.mark.slow)],
)
def test_the_error_drawn_is_that_of_the_definition(settings):
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 16, 2, 8)), jnp.float32) for _ in range(3))
    layer = PerformerAttention(16, 2, 8, **settings)
    errors = favor_errors(layer, q, k, v, counts=(8, 32, 256), draws=2)
    assert errors.shape == (2, 3, 2)
    assert (errors[:, 2].mean(1) < 0.7 * errors[:, 0].mean(1)).all()

    visible = np.tri(16, dtype=bool)[None, None] if layer.causal else np.ones((1, 1, 16, 16), bool)
    logits = np.einsum("btnh,bsnh->bnts", q, k) / 8**0.5
    weights = np.where(visible, np.exp(logits), 0)
    exact = np.einsum("bnts,bsnh->btnh", weights / weights.sum(-1, keepdims=True), v)
    projection = favor_projection(jax.random.split(jax.random.key(0), 2)[1], 256, 8, n_heads=2)
    projection = projection if layer.per_head else projection[0]
    estimate = dense_favor(q, k, v, projection, visible, kernel=layer.kernel)
    norm = lambda x: np.sqrt((np.asarray(x) ** 2).sum((1, 2, 3)))
    np.testing.assert_allclose(errors[:, 2, 1], norm(estimate - exact) / norm(exact), rtol=1e-3)


def test_numbers_are_counted_as_readers_do():
    assert in_words("layer", [3]) == "layer 3"
    assert in_words("head", [1, 2]) == "heads 1, 2"
    assert in_words("layer", [7, 1, 2, 3, 5]) == "layers 1–3, 5, 7"


EXPERIMENT = """
from effjax.models.build import decoder_config
from effjax.training.config import base_config


def get_config():
    config = base_config()
    config.data.length = 32
    config.sample.length = 0
    config.model = decoder_config(pattern=("local", "lsh", "adaptive_span", "performer"))
    config.model.update(d_model=16, d_ff=16, n_heads=2, head_dim=8, n_layers=4)
    config.model.local.chunk_size = 8
    config.model.lsh.update(chunk_size=8, n_buckets=4)
    config.model.adaptive_span.max_span = 64
    config.model.performer.n_features = 24
    return config
"""


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "experiment.py"
    path.write_text(EXPERIMENT)
    return str(path)


PICTURES = {
    ("local", "adaptive_span"): ["local_pattern", "adaptive_span_spans"],
    ("local", "lsh", "adaptive_span", "performer"): [
        "local_pattern",
        "lsh_layer_02",
        "adaptive_span_spans",
        "adaptive_span_over_text",
        "performer_error",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PICTURES)
def test_the_command_draws_every_mixer(pattern, experiment, tmp_path, capsys):
    names = PICTURES[pattern]
    flags = [f"--config.model.pattern={pattern}", f"--config.model.adaptive_span.dynamic={len(pattern) > 2}"]
    assert cli.run(visualize.main, [f"--config={experiment}", f"--output={tmp_path}", "--length=32", *flags]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / f"{name}.png") for name in names]
    for name in names:
        image = matplotlib.image.imread(tmp_path / f"{name}.png")[..., :3]
        assert min(image.shape[:2]) > 400
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20
    image = matplotlib.image.imread(tmp_path / "local_pattern.png")[..., :3]
    for colour in ((0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00)):  # own chunk, chunks beside it
        assert np.isclose(image, np.array(colour) / 255, atol=0.02).all(-1).mean() > 0.05


def test_a_run_shows_what_it_has_learned(experiment, tmp_path):
    config = load_config(experiment)
    with config.unlocked():
        config.model.update(pattern=("adaptive_span",), n_layers=2)
    task = make_task(config)
    abstract = abstract_state(task, make_optimizer(config), config)
    blank = lambda leaf: jnp.zeros(leaf.shape, leaf.dtype)
    state = jax.tree.map(blank, abstract.replace(key=None)).replace(key=jax.random.key(0))
    state.params["stack"]["period"]["mixing_0"]["mixer"]["share"] = jnp.array([[0.25, 0.5], [0.75, 1.0]])
    workdir = open_workdir(str(tmp_path / "run"))
    save_config(workdir, config)
    with Checkpoints(workdir, keep=1) as checkpoints:
        checkpoints.save(3, state, {"best": None})

    subject = visualize.subject_of(Namespace(config=config, workdir=str(workdir), checkpoint="latest", length=8))
    assert subject.origin == "parameters after 3 steps"
    spans = spans_of(subject, "adaptive_span")
    assert [layer for layer, _ in spans] == [1, 2]
    np.testing.assert_allclose([span for _, span in spans], [[16, 32], [48, 64]])


def test_an_encoder_under_a_classifier_is_drawn(tmp_path, capsys):
    flags = ["--config=configs/lra_listops.py:tiny", "--config.mixer=big_bird", f"--output={tmp_path}", "--length=400"]
    assert cli.run(visualize.main, flags) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "big_bird_pattern.png")]


def test_a_mixer_without_a_picture_is_named(experiment, tmp_path, capsys):
    flags = ["--config.model.pattern=('performer',)", "--config.model.performer.kernel=relu"]
    assert cli.run(visualize.main, [f"--config={experiment}", f"--output={tmp_path}", *flags]) == 0
    assert capsys.readouterr().out.startswith("performer: every position sees all before it")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--config is required"),
        (["--config={}", "--length=1"], "--length=1; 2 to 2,048 positions is allowed"),
        (["--config={}", "--length=9999"], "--length=9999; 2 to"),
        (["--config={}", "--length=many"], "invalid int value"),
        (["--config={}", "--checkpoint=best"], "--checkpoint=best without --workdir"),
        (["--config={}", "--output={}"], "cannot be made a directory"),
        (["--config={}", "--lenght=3"], "the nearest is --length"),
        (["--workdir=/nowhere/at/all"], "holds no run"),
        (["--config=configs/conformer_digits.py:tiny"], "config.task='speech': its model is no single stack"),
        (["--config=configs/lra_listops.py:tiny", "--config.mixer=lsh"], "'classification' has no running text, which"),
    ],
)
def test_mistakes_are_one_line(flags, message, experiment, capsys):
    assert cli.run(visualize.main, [flag.format(experiment) for flag in flags]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
