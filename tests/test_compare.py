"""`effjax.compare`: figures that can be checked, crossings, and failures that are reported."""

import json

import pytest

from effjax import compare as command
from effjax.comparison.families import BOTH_SIDES, FAMILIES, family, stride
from effjax.comparison.measure import Limits, Result, Shapes, compare, crossing
from effjax.errors import UserError

SMALL = ["--d_model=16", "--n_heads=2", "--head_dim=8", "--repeats=1"]


@pytest.mark.slow
def test_the_command_writes_what_it_measured(tmp_path, capsys):
    command.main(["--families=full,local", "--lengths=512,1k", "--train", f"--output={tmp_path}", *SMALL])
    report = json.loads((tmp_path / "comparison.json").read_text())
    assert report["settings"]["train"] and report["settings"]["n_heads"] == 2
    results = {(row["family"], row["length"]): row for row in report["results"]}
    assert len(results) == 4 and all(row["problem"] is None for row in results.values())
    assert 3.0 < results["full", 1024]["flops"] / results["full", 512]["flops"] < 4.1
    assert 1.9 < results["local", 1024]["flops"] / results["local", 512]["flops"] < 2.1
    assert results["full", 512]["error"] == 0
    assert results["local", 512]["error"] < 1e-6 < results["local", 1024]["error"]  # two chunks see all of the past
    assert results["local", 512]["tokens_per_second"] == pytest.approx(512 / results["local", 512]["seconds"])
    for name in ("seconds", "memory", "flops"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "length 1,024" in capsys.readouterr().out


def test_a_family_that_fails_is_reported_and_the_others_go_on():
    def broken(length, shapes):
        raise RuntimeError("no such thing\nsecond line")

    families = {"full": FAMILIES["full"], "broken": broken}
    shapes = Shapes(d_model=16, n_heads=2, head_dim=8)
    results = compare(families, [16, 32], shapes=shapes, repeats=1)
    assert [r.problem for r in results if r.family == "broken"] == ["RuntimeError: no such thing"] * 2
    assert all(r.seconds > 0 for r in results if r.family == "full")
    (result,) = compare({"full": FAMILIES["full"]}, [16], shapes=shapes, repeats=1, limits=Limits(bytes=10))
    assert "MemoryError" in result.problem and "more than 10 B" in result.problem


@pytest.mark.slow
def test_every_family_can_be_measured():
    families = FAMILIES | {"one_chunk": family("lsh", chunk_size=128, n_hashes=1)}
    results = compare(families, [128], shapes=Shapes(d_model=16, n_heads=2, head_dim=8), train=True, repeats=1)
    assert {result.family: result.problem for result in results} == dict.fromkeys(families)
    errors = {result.family: result.error for result in results}
    # Within their reach these are exact attention, over the past or towards both sides.
    for name in ("full", "full_both_sides", "local", "window", "big_bird", "one_chunk"):
        assert errors[name] < 1e-5, name
    # These estimate it, or see less of it.
    for name in ("lsh", "performer", "linformer", "nystromformer", "strided", "fixed", "log_sparse"):
        assert 1e-3 < errors[name] < 3, name
    assert errors["light_conv"] is None  # no queries to share


def test_the_crossing_lies_between_the_lengths_where_it_happens():
    def results(family, seconds):
        return [Result(family, length, seconds=s) for length, s in zip((1024, 2048, 4096), seconds)]

    full = results("full", (1.0, 4.0, 16.0))
    # Slower by 2 at 2,048 and faster by 2 at 4,096: halfway, on a logarithmic scale.
    assert crossing(full + results("fast", (4.0, 8.0, 8.0)), "fast") == pytest.approx(2048 * 2**0.5)
    assert crossing(full + results("always", (0.5, 1.0, 2.0)), "always") == 1024
    assert crossing(full + results("never", (2.0, 8.0, 32.0)), "never") is None
    assert crossing(full, "full") is None
    both = results("full_both_sides", (2.0, 8.0, 32.0))
    assert crossing(full + both + results("linformer", (4.0, 4.0, 4.0)), "linformer", BOTH_SIDES[0]) == (
        pytest.approx(1024 * 2**0.5)
    )


def test_a_memory_bounds_what_transformer_xl_costs():
    shapes = Shapes(d_model=16, n_heads=2, head_dim=8)
    results = compare({"transformer_xl": FAMILIES["transformer_xl"]}, [2048, 4096], shapes=shapes, repeats=1)
    assert 1.9 < results[1].flops / results[0].flops < 2.4


def test_strides_are_near_the_root():
    assert [stride(length) for length in (1024, 4096, 8192, 16384)] == [32, 64, 64, 128]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--families=full,fulll", "there is no 'fulll'; all, or some of full, local"),
        ("--lengths=1k,2x", "'2x' is no length"),
        ("--repeats=0", "--repeats=0; 1 or more"),
        ("--familys=full", "familys"),
    ],
)
def test_mistakes_are_named(flag, message, tmp_path):
    with pytest.raises(UserError, match=message):
        command.main([flag, f"--output={tmp_path}"])
