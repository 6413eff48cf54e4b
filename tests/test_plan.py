"""The plan of a small decoder: what it counts against hand counts, on one CPU device and on TPU slices."""

import json

import jax
import pytest

from effjax import cli, plan
from effjax.tasks import make_task
from effjax.training.config import load_config

REFORMER = "configs/reformer_enwik8.py"

WIDTH, HIDDEN, LAYERS, LENGTH, BATCH, IDS = 64, 256, 2, 128, 8, 258
# Per layer: query, key, value and output projections, two feed-forward matrices; then the head over both streams.
WEIGHTS = LAYERS * (4 * WIDTH * WIDTH + 2 * WIDTH * HIDDEN) + 2 * WIDTH * IDS


def small():
    config = load_config(f"{REFORMER}:tiny")
    config.batch_size = BATCH
    config.data.length = config.eval.context = config.eval.stride = LENGTH
    config.model.update(
        pattern=("local",), n_layers=LAYERS, d_model=WIDTH, d_ff=HIDDEN, n_heads=2, head_dim=32, positions="none"
    )
    return config


def plan_of(config, topology=None):
    return plan.plan(make_task(config), config, topology=topology)


@pytest.fixture(scope="module")
def on_cpu():
    return plan_of(small())


def test_parameters_are_those_of_the_model(on_cpu):
    params = make_task(small()).abstract_params
    counts = on_cpu["parameters"]
    assert counts["total"] == sum(counts["by_part"].values()) == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert counts["by_part"]["vocabulary/embedding"] == IDS * WIDTH
    assert counts["by_part"]["vocabulary/head"] == 2 * WIDTH * IDS + IDS


def test_flops_are_two_per_weight_and_direction_and_attention_on_top(on_cpu):
    flops = on_cpu["flops_per_token"]
    window = 2 * small().model.local.chunk_size
    attention = LAYERS * 2 * 2 * window * WIDTH
    assert 3 * 2 * WEIGHTS < flops["model"] <= 3 * (2 * WEIGHTS + attention)
    assert flops["forward"] == pytest.approx(flops["model"] / 3, rel=0.1)
    recomputed = flops["training_step_products"] - flops["model"]
    assert 0.2 * flops["model"] < recomputed < 0.4 * flops["model"]  # a reversible layer runs forward once more
    assert flops["training_step"] > flops["training_step_products"]


def test_state_and_memory_on_one_device(on_cpu):
    size, step = on_cpu["state_bytes"], on_cpu["training_step"]
    assert size["parameters"] == 4 * on_cpu["parameters"]["total"]
    assert size["optimizer"] == pytest.approx(2 * size["parameters"], rel=1e-3)
    assert size["carry"] == 0
    assert size["generation"] > 0
    assert step["state"] == pytest.approx(3 * size["parameters"], rel=1e-3)
    assert step["aliased"] >= 0.99 * step["state"]  # donated: updated in place
    assert step["temp"] > size["parameters"]  # at least the gradient
    assert step["total"] == step["arguments"] + step["outputs"] - step["aliased"] + step["temp"] + step["code"]
    assert (step["devices"], step["collectives"], step["available"]) == (1, {}, None)


def test_a_slice_in_data_parallel_reduces_the_gradient(on_cpu):
    step = plan_of(small(), "v5e:2x4")["training_step"]
    assert (step["device"], step["devices"], step["fits"]) == ("TPU v5 lite", 8, True)
    assert step["total"] < step["available"] == int(15.75 * 2**30)
    assert step["state"] == on_cpu["training_step"]["state"]
    gradient = on_cpu["state_bytes"]["parameters"]
    assert step["collectives"]["all-reduce"]["bytes"] == pytest.approx(gradient, rel=0.05)


@pytest.mark.slow
def test_a_slice_with_split_parameters_holds_less_and_gathers_them(on_cpu):
    config = small()
    config.mesh.update(data=2, fsdp=4)
    config.sharding = ((r"inner/kernel$", ("fsdp", None)), (r"outer/kernel$", ("fsdp", None)))
    step = plan_of(config, "v5e:2x4")["training_step"]
    feed_forward = LAYERS * 2 * WIDTH * HIDDEN * 4
    assert step["state"] == on_cpu["training_step"]["state"] - 3 * feed_forward * 3 // 4
    assert step["collectives"]["all-gather"]["bytes"] > 0


def test_a_program_too_large_for_its_chips_is_reported_not_raised(capsys):
    config = small()
    config.batch_size, config.data.length = 8 * 4096, 4096
    config.model.residual = "residual"
    report = plan_of(config, "v5e:2x4")
    assert report["training_step"]["fits"] is False
    assert report["training_step"]["total"] > report["training_step"]["available"]
    plan.show(report)
    assert "does not fit" in capsys.readouterr().out


def test_the_command_prints_tables_or_json(on_cpu, capsys):
    flags = [f"--config={REFORMER}:tiny", f"--config.batch_size={BATCH}"]
    flags += [f"--config.model.{key}={value}" for key, value in small().model.items() if isinstance(value, int | str)]
    lengths = ("data.length", "eval.context", "eval.stride")
    flags += ["--config.model.pattern=('local',)", *(f"--config.{key}={LENGTH}" for key in lengths)]
    assert cli.run(plan.main, [*flags, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    for report in (printed, on_cpu):
        report["training_step"].pop("compile_seconds")
    assert printed == on_cpu
    plan.show(on_cpu)
    text = capsys.readouterr().out
    assert f"{on_cpu['parameters']['total']:,} parameters" in text
    assert "generation" in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topology=v5e:3x5"], "no TPU slice 'v5e:3x5'"),
        (["--topology=v5e:4x4"], "batch_size=4 cannot be split over 16 devices"),
        (["--config.mesh.fsdp=3", "--topology=v5e:2x4"], "fsdp=3"),
    ],
)
def test_what_cannot_be_planned_is_one_line(flags, message, capsys):
    assert cli.run(plan.main, [f"--config={REFORMER}:tiny", *flags]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("flags", "length"), [([], 23_040), (["--stage=1"], 2048), (["--stage=4"], 16_384)])
def test_a_plan_is_that_of_the_last_stage_or_of_the_one_named(flags, length, monkeypatch, capsys):
    planned = []
    monkeypatch.setattr(plan, "plan", lambda task, config, topology: planned.append((task.config, config)) or {})
    assert cli.run(plan.main, ["--config=configs/longformer_enwik8.py", "--json", *flags]) == 0
    ((of_task, config),) = planned
    assert of_task is config and config.data.length == length


def test_a_stage_that_does_not_exist_is_one_line(capsys):
    assert cli.run(plan.main, ["--config=configs/longformer_enwik8.py", "--stage=6"]) == 1
    assert capsys.readouterr().err == "error: --stage=6; the configuration has stages 1 to 5\n"


@pytest.mark.slow
@pytest.mark.parametrize(("topology", "batch_size"), [(None, 8), ("v5e:16x16", 256)])
def test_the_public_configuration_compiles_at_its_full_length(topology, batch_size):
    # On v5e:2x4 a chip gets one sequence too: the same program over fewer chips takes as many minutes to compile.
    config = load_config(REFORMER)
    config.batch_size = batch_size
    report = plan_of(config, topology)
    print(json.dumps(report))
    assert report["parameters"]["total"] == 56_406_786
    assert report["config"]["length"] == 65_536
    assert topology is None or report["training_step"]["fits"]
