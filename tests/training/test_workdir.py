"""A workdir belongs to one configuration, and its files are replaced whole."""

import json

import pytest
from etils import epath

from effjax.errors import UserError
from effjax.training import workdir as workdirs
from effjax.training.config import apply_overrides, flatten
from effjax.training.workdir import (
    check_same_run,
    keep_result,
    load_saved_config,
    open_workdir,
    replace_text,
    save_config,
)
from tests.training.fake_task import fake_config


def test_a_saved_configuration_comes_back_whole_and_locked(tmp_path):
    workdir, config = (
        open_workdir(str(tmp_path / "run")),
        fake_config(model__bad_steps=(2, 3), sharding=(("a", ("fsdp",)),)),
    )
    save_config(workdir, config)
    loaded = load_saved_config(workdir)
    assert flatten(loaded) == flatten(config) and loaded.is_locked and loaded.model.is_locked
    check_same_run(workdir, config)


def test_another_configuration_is_refused_with_the_fields_that_differ(tmp_path):
    workdir = open_workdir(str(tmp_path))
    save_config(workdir, fake_config())
    with pytest.raises(UserError) as error:
        check_same_run(workdir, fake_config(seed=1, optimizer__b1=0.5, steps=99))
    assert "optimizer.b1 (0.9 there, 0.5 now), seed (0 there, 1 now);" in str(error.value)
    assert "steps" not in str(error.value)


def test_length_place_and_watching_may_differ(tmp_path):
    workdir = open_workdir(str(tmp_path))
    save_config(workdir, fake_config())
    changes = dict(
        steps=9, log_every=3, mesh__fsdp=2, eval__every=1, checkpoint__keep=7, sample__length=3, data__path="x"
    )
    check_same_run(workdir, fake_config(**changes))


def test_a_field_newer_than_the_saved_run_counts_as_its_default(tmp_path):
    workdir = open_workdir(str(tmp_path))
    save_config(workdir, fake_config())
    saved = json.loads((workdir / "config.json").read_text())
    del saved["accumulate"]
    (workdir / "config.json").write_text(json.dumps(saved))
    check_same_run(workdir, fake_config())
    with pytest.raises(UserError, match=r"accumulate \(1 there, 2 now\)"):
        check_same_run(workdir, fake_config(accumulate=2))


def test_a_missing_or_broken_configuration_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        load_saved_config(epath.Path(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        load_saved_config(epath.Path(tmp_path))


def test_a_workdir_below_a_file_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the workdir .*file/run cannot be written to: Not a directory"):
        save_config(open_workdir(str(tmp_path / "file" / "run")), fake_config())


@pytest.mark.parametrize("remote", [False, True])
def test_replacing_a_file_leaves_nothing_beside_it(tmp_path, monkeypatch, remote):
    monkeypatch.setattr(workdirs, "is_remote", lambda path: remote)
    path = epath.Path(tmp_path) / "deep" / "file"
    for text in ("one", "two"):
        replace_text(path, text)
        assert path.read_text() == text
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_paths_are_made_absolute_unless_remote(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(open_workdir("run")) == str(tmp_path / "run")
    assert str(open_workdir("gs://bucket/run")) == "gs://bucket/run"


def test_overrides_of_a_saved_run_apply(tmp_path):
    workdir = open_workdir(str(tmp_path))
    save_config(workdir, fake_config())
    assert apply_overrides(load_saved_config(workdir), [("steps", "99")]).steps == 99


def test_a_result_is_made_once_and_kept_whole(tmp_path):
    path = tmp_path / "metrics" / "run.json"

    def broken():
        raise RuntimeError("cut off")

    with pytest.raises(RuntimeError):
        keep_result(path, broken)
    assert not path.exists()
    keep_result(path, lambda: {"loss": 0.5})
    keep_result(path, broken)
    assert json.loads(path.read_text()) == {"loss": 0.5}
