"""quantize and prune as commands: from one working directory to another, which evaluate and generate load."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax import cli, evaluate, generate
from effjax.compression.kernels import find_kernels
from effjax.compression.prune import Plan, flat, masked, prune_once
from effjax.compression.removal import living, remove, shared_by_layers
from effjax.compression.structure import structure_of
from effjax.errors import UserError
from effjax.interop.workdirs import load_model
from effjax.prune import main as prune
from effjax.quantize import main as quantize
from effjax.tasks import make_task
from effjax.training.checkpoints import fingerprint
from effjax.training.loop import train
from effjax.training.release import write_release
from effjax.training.workdir import open_workdir
from tests.compression.models import tiny_config, tiny_params, tokens, with_settings
from tests.laws.measure import relative_norm


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A working directory with untrained parameters."""
    workdir, params = tmp_path_factory.mktemp("run") / "run", tiny_params(("full",))
    write_release(open_workdir(str(workdir)), tiny_config("full"), 3, params, fingerprint({"params": params}))
    return str(workdir)


def output(command, capsys, *flags):
    capsys.readouterr()
    command([*flags, "--json"])
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["int4_weight_only", "int8_static"])
def test_a_quantised_copy_is_small_on_disk_and_scores_and_generates(run, tmp_path, capsys, mode):
    out = str(tmp_path / "small")
    report = output(
        quantize, capsys, f"--checkpoint={run}", f"--mode={mode}", f"--out={out}", "--limit=64", "--states",
        "--calibration_batches=2", "--config.quantization.group=8", "--config.quantization.rules=(('.', True),)",
    )  # fmt: skip
    assert report["bytes"]["after"] == report["bytes"]["formula"] < 0.5 * report["bytes"]["before"]
    assert abs(report["after"]["bits_per_byte"] - report["before"]["bits_per_byte"]) < 0.1
    again = output(evaluate.main, capsys, f"--workdir={out}", "--limit=64")
    assert again["bits_per_byte"] == pytest.approx(report["after"]["bits_per_byte"]) and again["step"] == 3
    generate.main([f"--workdir={out}", "--prompt=ab", "--length=3"])
    assert capsys.readouterr().out.startswith("ab")
    with pytest.raises(UserError, match="integers already"):
        quantize([f"--checkpoint={out}", "--mode=int8_dynamic", f"--out={tmp_path / 'twice'}"])
    with pytest.raises(UserError, match="integers cannot be trained"):
        config = with_settings(tiny_config("full"), quantization__mode=mode, quantization__stored=True)
        train(make_task(config), config, str(tmp_path / "trained"))


def test_size_on_disk_is_that_of_the_formula_within_three_per_cent(tmp_path):
    from effjax.compression.quantize import quantize_params, quantized_bytes

    config = with_settings(tiny_config("full"), model__d_model=128, model__d_ff=512)
    task = make_task(config)
    shapes, kernels = task.abstract_params, find_kernels(task.init)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda like: jnp.asarray(rng.normal(size=like.shape), like.dtype), shapes)
    for mode in ("int8_weight_only", "int4_weight_only"):
        small = jax.jit(lambda params, mode=mode: quantize_params(params, kernels, mode, 32))(params)
        size = write_release(open_workdir(str(tmp_path / mode)), config, 0, small, fingerprint({"params": small}))
        assert size == pytest.approx(quantized_bytes(params, kernels, mode, 32), rel=0.03)


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        (quantize, ["--mode=int5"], "one of int8_weight_only"),
        (quantize, ["--mode=int8_static", "--calibration_batches=0"], "calibration data is empty"),
        (quantize, ["--mode=int8_dynamic", "--config.quantization.rules=(('nothing', True),)"], "matches none"),
        (prune, ["--structure=weights", "--sparsity=1.0"], "sparsity 1.0"),
        (prune, ["--structure=5:7"], "7 does not divide"),
        (prune, ["--structure=weights", "--config.pruning.rules=(('nothing', True),)"], "matches none"),
        (prune, ["--remove", "--config.pruning.rules=()"], "nothing is removed"),
        (prune, [], "nothing to do"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else None,
)
def test_bad_input_is_one_line_before_any_work_and_nothing_is_written(run, tmp_path, capsys, command, flags, message):
    out = tmp_path / "out"
    assert cli.run(command, [f"--checkpoint={run}", f"--out={out}", *flags]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists() and not list(tmp_path.iterdir())


def test_nothing_is_overwritten(run, tmp_path):
    (tmp_path / "precious").write_text("mine")
    for command, flag in ((quantize, "--mode=int8_dynamic"), (prune, "--structure=2:4")):
        with pytest.raises(UserError, match="not empty"):
            command([f"--checkpoint={run}", f"--out={tmp_path}", flag])
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_platform_that_gets_a_mode_wrong_is_refused(monkeypatch):
    from effjax.compression import quantize as modes

    monkeypatch.setattr(modes, "dense_dot", lambda *_: (_ for _ in ()).throw(NotImplementedError("no int8 here")))
    with pytest.raises(UserError, match="int8_dynamic cannot run on platform 'cpu': no int8 here"):
        modes.check_mode("int8_dynamic")


def silenced(config, structure, sparsity):
    """Kernels, and parameters with some heads or neurons silent."""
    task = make_task(config)
    params = jax.jit(task.init)(jax.random.key(0))
    kernels = find_kernels(task.init)
    small, _ = prune_once(params, Plan(structure_of(structure, kernels), sparsity=sparsity))
    return kernels, small


@pytest.mark.parametrize(
    ("name", "structure"),
    [
        ("full", "heads"),
        pytest.param("full", "neurons", marks=pytest.mark.slow),
        pytest.param("longformer", "heads", marks=pytest.mark.slow),
        pytest.param("performer", "heads", marks=pytest.mark.slow),
        pytest.param("adaptive_span", "heads", marks=pytest.mark.slow),
    ],
)
def test_a_model_without_its_silent_heads_or_neurons_is_the_same_function(name, structure):
    config = with_settings(tiny_config(name), model__n_heads=4, model__head_dim=4)
    kernels, small = silenced(config, structure, 0.5)
    narrow, removed = remove(config, small, kernels, structure)
    assert {"heads": narrow.model.n_heads == 2, "neurons": narrow.model.d_ff == 16}[structure]
    ours, theirs = (
        jax.jit(make_task(own).model.apply)({"params": params}, tokens())[0]
        for own, params in ((narrow, removed), (config, small))
    )
    assert relative_norm(ours, theirs) <= 1e-6
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    if name == "full":  # two layers: 4 D H for each head, 2 D + 1 for each neuron and its bias
        fewer = 2 * 2 * 4 * 16 * 4 if structure == "heads" else 2 * 16 * (2 * 16 + 1)
        assert count(small) - count(removed) == fewer


@pytest.mark.slow
def test_layers_that_silence_unlike_numbers_lose_what_all_can_spare():
    config = with_settings(tiny_config("full"), model__n_heads=4, model__head_dim=4)
    kernels, small = silenced(config, "heads", 0.25)
    path = next(path for path in kernels if path.endswith("out/kernel"))
    more = np.ones((2, 4, 4, 16), bool)
    more[1, np.flatnonzero(living(small, kernels, "heads")[path][1])[0]] = False
    small = masked(small, {path: more})
    narrow, removed = remove(config, small, kernels, "heads")
    assert narrow.model.n_heads == 3
    assert living(removed, kernels, "heads")[path].sum(1).tolist() == [3, 2]


@pytest.mark.slow
def test_families_that_tell_heads_apart_say_so():
    config = with_settings(tiny_config("transformer_xl"), model__n_heads=4, model__head_dim=4)
    kernels, small = silenced(config, "heads", 0.5)
    with pytest.raises(UserError, match=r"content_bias is shared by layers that do not silence the same heads"):
        remove(config, small, kernels, "heads")
    assert shared_by_layers(config, small, kernels, "heads") == ["shared/content_bias", "shared/position_bias"]
    lsh = with_settings(tiny_config("lsh"), model__n_heads=4, model__head_dim=4)
    kernels, small = silenced(lsh, "heads", 0.5)
    assert not shared_by_layers(lsh, small, kernels, "heads")
    with pytest.raises(UserError, match=r"tells them apart by their number"):
        remove(lsh, small, kernels, "heads")


@pytest.mark.slow
def test_heads_of_layers_that_share_parameters_are_silenced_alike_and_removed(tmp_path, capsys):
    config = with_settings(tiny_config("transformer_xl"), model__n_heads=4, model__head_dim=4, batch_size=8)
    rng, shapes = np.random.default_rng(0), make_task(config).abstract_params
    before = jax.tree.map(lambda like: jnp.asarray(0.2 * rng.normal(size=like.shape), like.dtype), shapes)
    run, out = str(tmp_path / "run"), str(tmp_path / "narrow")
    write_release(open_workdir(run), config, 3, before, fingerprint({"params": before}))
    flags = ("--structure=heads", "--sparsity=0.25", "--batches=2", "--remove", "--limit=64")
    report = output(prune, capsys, f"--checkpoint={run}", f"--out={out}", *flags)
    assert report["model"]["n_heads"] == 3 and np.isfinite(report["after"]["bits_per_byte"])
    after = load_model(out)[1]
    kept = [
        i
        for i, row in enumerate(before["shared"]["content_bias"])
        if (row == after["shared"]["content_bias"]).all(-1).any()
    ]
    assert len(kept) == 3
    path = next(path for path in flat(before) if path.endswith("out/kernel"))
    np.testing.assert_array_equal(flat(after)[path], flat(before)[path][:, kept])


@pytest.mark.slow
def test_training_prunes_from_another_run_and_what_it_masks_can_be_removed(run, tmp_path, capsys):
    pruning = dict(method="magnitude", structure="neurons", sparsity=0.5, begin=0, end=2, every=1)
    settings = {f"pruning__{name}": value for name, value in pruning.items()}
    config = with_settings(tiny_config("full"), init_from=run, batch_size=8, **settings)
    workdir = str(tmp_path / "pruned")
    train(make_task(config), config, workdir)
    report = output(prune, capsys, f"--checkpoint={workdir}", f"--out={tmp_path / 'narrow'}", "--remove", "--limit=64")
    assert report["model"]["d_ff"] == 16
    assert report["after"]["bits_per_byte"] == pytest.approx(report["before"]["bits_per_byte"], rel=1e-6)
    report = output(
        prune, capsys, f"--checkpoint={run}", f"--out={tmp_path / 'heads'}", "--structure=heads", "--limit=64",
        "--batches=2", "--remove",
    )  # fmt: skip
    assert report["model"]["n_heads"] == 1 and report["parameters"]["after"] < report["parameters"]["before"]
    with pytest.raises(UserError, match=r"less than config\.steps"):
        late = with_settings(config, pruning__end=9, pruning__every=9)
        train(make_task(late), late, str(tmp_path / "late"))


@pytest.mark.slow
def test_training_that_rounds_starts_from_a_run_and_learns(run, tmp_path):
    settings = dict(init_from=run, batch_size=8, quantization__mode="int8_dynamic")
    config = with_settings(tiny_config("full", residual="residual"), **settings)
    workdir = tmp_path / "qat"
    train(make_task(config), config, str(workdir))
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite([row["train/loss"] for row in rows if "train/loss" in row]).all()
