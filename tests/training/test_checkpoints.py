"""Checkpoints: kept, verified, set aside when damaged, read onto any number of devices."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from effjax.errors import UserError
from effjax.training.checkpoints import Checkpoints, fingerprint, restore_params
from effjax.training.optimizers import make_optimizer
from effjax.training.sharding import make_mesh, state_shardings
from effjax.training.state import abstract_state, carry_batch_axes, initial_state
from tests.training.fake_task import FakeTask, fake_config

CONFIG = fake_config(model__carry=True)
RULES = (("table", ("fsdp",)), ("kernel", (None, "fsdp")))


def abstract(devices=8, fsdp=1):
    mesh = make_mesh(dict(data=-1, fsdp=fsdp, tensor=1, sequence=1), jax.devices()[:devices])
    state = abstract_state(FakeTask(CONFIG), make_optimizer(CONFIG), CONFIG)
    shardings = state_shardings(state, mesh, RULES, carry_batch_axes(FakeTask(CONFIG), CONFIG))
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)


def make_state(seed=0, like=None):
    like = abstract() if like is None else like
    init = jax.jit(
        lambda key: initial_state(FakeTask(CONFIG), make_optimizer(CONFIG), CONFIG, key),
        out_shardings=jax.tree.map(lambda x: x.sharding, like),
    )
    return init(jax.random.key(seed))


def position(step, best=None):
    return {"examples": 8 * step, "since_row": {"nats": [0.1 + 0.2, 3.0]}, "best": best}


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    """A workdir with the checkpoints 3 and 6, of seeds 3 and 6."""
    workdir = epath.Path(tmp_path_factory.mktemp("run"))
    with Checkpoints(workdir, keep=2) as checkpoints:
        for step in (3, 6):
            checkpoints.save(step, make_state(step), position(step))
    return workdir


@pytest.fixture
def workdir(two_checkpoints, tmp_path):
    shutil.copytree(two_checkpoints, tmp_path / "run")
    return epath.Path(tmp_path / "run")


def restore(workdir, like=None):
    lines = []
    with Checkpoints(workdir, keep=2) as checkpoints:
        return checkpoints.restore(lambda step: abstract() if like is None else like, report=lines.append), lines


def test_the_newest_comes_back_to_the_bit_with_its_position(workdir):
    (step, state, place), lines = restore(workdir)
    assert (step, lines) == (6, [])
    assert_same(state, make_state(6))
    assert {name: place[name] for name in position(6)} == position(6)


def test_no_checkpoint_is_no_error(tmp_path):
    assert restore(epath.Path(tmp_path))[0] is None


@pytest.mark.eight_devices
@pytest.mark.parametrize("devices", [1, 4])
def test_eight_devices_restore_onto_fewer(tmp_path, devices):
    with Checkpoints(epath.Path(tmp_path), keep=1) as checkpoints:
        state = make_state(1, abstract(8, fsdp=4))
        assert len(state.params["embedding"]["table"].sharding.device_set) == 8
        checkpoints.save(1, state, position(1))
    like = abstract(devices, fsdp=min(devices, 2))
    (_, restored, _), _ = restore(epath.Path(tmp_path), like)
    assert_same(restored, state)
    jax.tree.map(lambda x, y: x.sharding == y.sharding or pytest.fail(f"{x.sharding} {y.sharding}"), restored, like)


def damage(workdir, step, item, how):
    """Damages a file of an item of a checkpoint without which it cannot be read; returns its path."""
    directory = pathlib.Path(workdir, "checkpoints", str(step), item)
    file = directory / "metadata" if item == "position" else next((directory / "d").iterdir())
    if how == "truncated":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif how == "missing":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0x10
        file.write_bytes(bytes(content))
    return file


def everything(directory):
    return list(pathlib.Path(directory).rglob("*"))


@pytest.mark.usefixtures("damaging")
@pytest.mark.parametrize(
    ("item", "how"),
    [
        pytest.param(item, how, marks=[pytest.mark.slow] * bool(i or j))
        for i, item in enumerate(["params", "training", "position"])
        for j, how in enumerate(["altered", "truncated", "missing"])
    ],
)
def test_a_damaged_newest_is_reported_and_the_one_before_it_restored(workdir, item, how):
    file = damage(workdir, 6, item, how)
    evidence = {path.name for path in everything(workdir / "checkpoints" / "6")}
    (step, state, _), lines = restore(workdir)
    assert step == 3
    assert_same(state, make_state(3))
    aside = workdir / "damaged_checkpoints" / "6"
    assert len(lines) == 1 and "step 6 is damaged" in lines[0] and str(aside) in lines[0]
    assert {path.name for path in everything(aside)} == evidence
    assert how == "missing" or (aside / file.relative_to(workdir / "checkpoints" / "6")).exists()


@pytest.mark.slow
@pytest.mark.usefixtures("damaging")
def test_the_same_step_can_be_saved_and_damaged_again(workdir):
    for copy in ("6", "6_again"):
        damage(workdir, 6, "params", "truncated")
        with Checkpoints(workdir, keep=2) as checkpoints:
            step, state, place = checkpoints.restore(lambda step: abstract(), report=lambda line: None)
            assert step == 3
            checkpoints.save(6, state, place)
            checkpoints.wait()
            assert checkpoints.latest_step == 6
        assert (workdir / "damaged_checkpoints" / copy).is_dir()


@pytest.mark.usefixtures("damaging")
def test_when_none_can_be_read_nothing_moves(workdir):
    damage(workdir, 3, "params", "truncated")
    damage(workdir, 6, "training", "missing")
    before = {str(path) for path in everything(workdir)}
    with pytest.raises(
        UserError, match=r"no checkpoint in .* can be read \(step 6: .*; step 3: .*\); nothing was changed"
    ):
        restore(workdir)
    assert {str(path) for path in everything(workdir)} == before


def test_arrays_that_decode_but_differ_are_noticed(workdir, monkeypatch):
    """What no decompressor notices: whole files with other numbers in them."""
    shutil.rmtree(workdir / "checkpoints" / "6" / "params")
    shutil.copytree(workdir / "checkpoints" / "3" / "params", workdir / "checkpoints" / "6" / "params")
    (step, _, _), lines = restore(workdir)
    assert step == 3 and "params/embedding/table is not what was saved" in lines[0]


def test_the_latest_and_the_best_are_kept_across_restarts(tmp_path):
    workdir = epath.Path(tmp_path)
    state = make_state()
    best = {"step": 2, "score": 1.5}
    for first in (1, 4):
        with Checkpoints(workdir, keep=2) as checkpoints:
            checkpoints.restore(lambda step: abstract())
            for step in range(first, first + 3):
                checkpoints.save(step, state, position(step, best if step >= 2 else None))
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"2", "5", "6"}
    assert restore_params(workdir, state.params, which="best")[0] == 2


def test_parameters_alone_by_latest_best_or_step(workdir):
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), make_state().params)
    for which, step in (("latest", 6), ("best", 6), (3, 3), ("3", 3)):
        found, restored = restore_params(workdir, params, which=which)
        assert found == step
        assert_same(restored, make_state(step).params)
    with pytest.raises(UserError, match=r"no checkpoint of step 4 in .*; those are \[3, 6\]"):
        restore_params(workdir, params, which=4)
    with pytest.raises(UserError, match=r"'newest'.* latest, best or a step"):
        restore_params(workdir, params, which="newest")
    with pytest.raises(UserError, match="holds no checkpoints"):
        restore_params(workdir / "elsewhere", params)


def test_parameters_of_another_model_are_refused(workdir):
    wider = {"embedding": {"table": jax.ShapeDtypeStruct((32, 99), "float32")}}
    with pytest.raises(UserError, match=r"checkpoint of step 6 in .* cannot be read"):
        restore_params(workdir, wider)


@pytest.mark.eight_devices
def test_a_fingerprint_sees_every_word_and_no_layout():
    whole = make_state(5, abstract(1))
    split = jax.device_put(whole, jax.tree.map(lambda x: x.sharding, abstract(8, fsdp=8)))
    assert fingerprint(whole) == fingerprint(split)
    assert json.loads(json.dumps(fingerprint(whole))) == fingerprint(whole)
    table = whole.params["embedding"]["table"]
    changed = fingerprint({"params": {"embedding": {"table": table.at[3, 2].add(1e-6)}}})
    assert changed["params/embedding/table"] != fingerprint(whole)["params/embedding/table"]
    small = {"a": np.arange(5, dtype=np.int8), "b": np.array([True, False]), "c": np.ones(3, np.float16)}
    assert fingerprint(small) == {"a": 10, "b": 1, "c": 3 * 0x3C00}
