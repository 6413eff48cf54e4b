"""Compression of what is no decoder of bytes: integers near the floats, training that rounds, commands end to end."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax import cli, evaluate, predict
from effjax.compression.kernels import find_kernels, select
from effjax.compression.prune import Plan, prune_once
from effjax.compression.quantize import kernel_losses, nbytes, quantize_params, quantized_bytes
from effjax.compression.removal import remove
from effjax.compression.structure import structure_of
from effjax.data.spoken_digits import SAMPLE
from effjax.errors import UserError
from effjax.prune import main as prune
from effjax.quantize import main as quantize
from effjax.tasks import make_task
from effjax.training.checkpoints import fingerprint
from effjax.training.loop import train
from effjax.training.release import write_release
from effjax.training.workdir import open_workdir
from tests.compression.families import FAMILIES, family_config, family_parts
from tests.compression.models import with_settings
from tests.laws.measure import relative_norm

COMPILED = {"translation": "search", "conformer": "encode"}  # what a task writes with, behind its scores; others: score
BLOCK = "params/encoder/blocks/block/"


def stored(config, mode):
    return make_task(with_settings(config, quantization__mode=mode, quantization__stored=True))


def integers(name, mode):
    """A task that holds integers, its parameters, and the kernels."""
    config, task, params = family_parts(name)
    kernels = select(find_kernels(task.init), (), field="rules")
    small = jax.jit(lambda params: quantize_params(params, kernels, mode, 32))(params)
    return stored(config, mode), small, kernels


def behind_scores(task, params, name):
    """What the compiled function gives with which a task writes, or scores, while it scores a split."""
    function, seen = COMPILED.get(name, "score"), []
    compiled = getattr(task, function)

    def spy(*args):
        seen.append(compiled(*args))
        return seen[-1]

    task.__dict__[function] = spy  # in place of the cached property
    task.evaluate(params, "valid", limit=64 if name in ("linformer", "nystromformer") else 2)  # tokens, or examples
    leaves = jax.tree.leaves(jax.device_get(seen))
    return [np.asarray(leaf, np.float64) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]


@functools.cache
def floats_behind_scores(name):
    config, _, params = family_parts(name)
    return behind_scores(make_task(config), params, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_what_training_that_rounds_scores_and_writes_is_what_the_integers_do(name):
    config, _, params = family_parts(name)
    rounding = behind_scores(make_task(with_settings(config, quantization__mode="int8_dynamic")), params, name)
    task, small, _ = integers(name, "int8_dynamic")
    ours, exact = behind_scores(task, small, name), floats_behind_scores(name)
    assert len(rounding) == len(ours) == len(exact)
    far, near = relative_norm(rounding, exact), relative_norm(rounding, ours)
    assert near <= 1e-3 and near < far / 10 and 0 < far <= 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAMILIES, "transducer"])
def test_integers_come_near_the_floats_in_every_family(name):
    _, plain, params = family_parts(name)
    task, small, kernels = integers(name, "int8_weight_only")
    assert all(kernel.layers for path, kernel in kernels.items() if "/period/" in path or "/blocks/" in path)
    assert nbytes(small) == quantized_bytes(params, kernels, "int8_weight_only", 32) < nbytes(params)
    assert min(kernel_losses(params, small, kernels).values()) >= 38
    batch = next(iter(plain.train_reader(0, 1).iterate(0)))
    loss, exact = (
        float(jax.jit(lambda params, batch, own=own: own.loss(params, batch, own.initial_carry(2))[0])(weights, batch))
        for own, weights in ((task, small), (plain, params))
    )
    assert loss != exact and loss == pytest.approx(exact, rel=0.02)


def random_conformer():
    """Kernels and parameters of a Conformer, never compiled."""
    task = make_task(family_config("conformer"))
    shapes, rng = task.abstract_params, np.random.default_rng(0)
    random = lambda like: jnp.asarray(rng.uniform(0.1, 1.0, like.shape), like.dtype)
    return find_kernels(task.init), jax.tree.map(random, shapes)


@pytest.mark.slow
def test_a_conformer_is_pruned_layer_by_layer_along_what_is_contracted():
    kernels, params = random_conformer()
    query = kernels[f"{BLOCK}attention/query/kernel"]
    assert (query.layers, query.shape, query.axes) == (2, (16, 2, 8), (0,))
    assert kernels["params/encoder/subsampling/outer/kernel"].layers == 0
    assert len(kernels) == 12 and not any("batch_stats" in path or "norm" in path for path in kernels)
    small, masks = prune_once(params, Plan(structure_of("2:4", kernels)))
    assert set(masks) == set(kernels)
    for layer in np.asarray(masks[query.path]):
        assert (layer.reshape(4, 4, 16).sum(1) == 2).all()
    read = structure_of("neurons", kernels)
    assert set(read) == {f"{BLOCK}feed_forward_{i}/outer/kernel" for i in (1, 2)}
    assert set(structure_of("heads", kernels)) == {f"{BLOCK}attention/out/kernel"}
    small, masks = prune_once(params, Plan(read, sparsity=0.75))
    for path in read:
        assert (np.asarray(masks[path]).all(2).sum(1) == 16).all()  # of 64 in each of both layers
    assert jax.tree.map(jnp.shape, small) == jax.tree.map(jnp.shape, params)


@pytest.mark.slow
def test_a_conformer_without_its_silent_neurons_is_the_same_function_and_heads_are_refused():
    config, task, params = family_parts("conformer")
    kernels = find_kernels(task.init)
    small, _ = prune_once(params, Plan(structure_of("neurons", kernels), sparsity=0.5))
    narrow, removed = remove(config, small, kernels, "neurons")
    assert config.model.d_ff == 0 and narrow.model.d_ff == 32
    assert removed["params"]["encoder"]["blocks"]["block"]["feed_forward_2"]["inner"]["kernel"].shape == (2, 16, 32)
    batch = next(iter(task.train_reader(0, 1).iterate(0)))
    ours, theirs = (
        jax.jit(own.encode.__wrapped__)(weights, batch)[0]
        for own, weights in ((make_task(narrow), removed), (task, small))
    )
    assert relative_norm(ours, theirs) <= 1e-6
    silent, _ = prune_once(params, Plan(structure_of("heads", kernels), sparsity=0.5))
    with pytest.raises(UserError, match=r"would have .* with n_heads=1: not possible"):
        remove(config, silent, kernels, "heads")


def output(command, capsys, *flags):
    capsys.readouterr()
    assert cli.run(command, [*flags, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_a_conformer_trained_with_pruning_is_narrowed_quantised_scored_and_read_with(tmp_path, capsys):
    pruning = dict(method="magnitude", structure="neurons", sparsity=0.5, begin=0, end=1, every=1)
    settings = {f"pruning__{name}": value for name, value in pruning.items()}
    config = with_settings(
        family_config("conformer"), steps=2, eval__every=0, checkpoint__every=2, options__beam=0, **settings
    )
    run, narrow, small = (str(tmp_path / name) for name in ("run", "narrow", "small"))
    train(make_task(config), config, run)
    limits = ("--split=valid", "--limit=2")
    report = output(prune, capsys, f"--checkpoint={run}", f"--out={narrow}", "--remove", *limits)
    assert report["model"]["d_ff"] == 32 and report["after"]["loss"] == pytest.approx(
        report["before"]["loss"], rel=1e-5
    )
    flags = ("--mode=int8_static", "--calibration_batches=1", *limits)
    report = output(quantize, capsys, f"--checkpoint={narrow}", f"--out={small}", *flags)
    assert report["bytes"]["after"] == report["bytes"]["formula"] < report["bytes"]["before"]
    assert report["after"]["loss"] == pytest.approx(report["before"]["loss"], rel=0.1)
    again = output(evaluate.main, capsys, f"--workdir={small}", *limits)
    assert again["loss"] == pytest.approx(report["after"]["loss"]) and again["step"] == 2
    assert isinstance(output(predict.main, capsys, f"--workdir={small}", str(SAMPLE / "6_nicolas_7.wav"))["text"], str)


@pytest.mark.slow
def test_a_smaller_translation_run_keeps_its_byte_pairs_and_needs_no_corpus(tmp_path, capsys, monkeypatch):
    config, task, params = family_parts("translation")
    run, small, sparse = (tmp_path / name for name in ("run", "small", "sparse"))
    write_release(open_workdir(str(run)), config, 3, params, fingerprint({"params": params}))
    task = make_task(config)
    task.workdir = open_workdir(str(run))
    assert task.vocabulary.size and (run / "byte_pairs.json").exists()
    # The run's own: what is learned anew would have those of other texts.
    monkeypatch.setattr("effjax.data.bpe.BytePairs.learn", None)
    common = (f"--checkpoint={run}", "--split=valid", "--limit=2")
    output(quantize, capsys, *common, f"--out={small}", "--mode=int8_weight_only")
    output(prune, capsys, *common, f"--out={sparse}", "--structure=weights", "--sparsity=0.5")
    monkeypatch.setattr("effjax.tasks.text_to_text.load_text_pairs", None)
    for directory in (small, sparse):
        assert (directory / "byte_pairs.json").read_text() == (run / "byte_pairs.json").read_text()
        written = output(predict.main, capsys, f"--workdir={directory}", "Arktischer Ozean")
        assert np.isfinite(written["outputs"][0]["score"])
