"""Fields, files and overrides: what is accepted, and what a mistake is answered with."""

import pytest
from ml_collections import ConfigDict

from effjax.errors import UserError
from effjax.training.config import (
    FIELDS,
    apply_overrides,
    base_config,
    check_config,
    describe_fields,
    flatten,
    load_config,
)

EXPERIMENT = """
from ml_collections import ConfigDict
from effjax.errors import UserError
from effjax.training.config import base_config

def get_config(preset="default"):
    config = base_config()
    config.model = ConfigDict({"width": 16, "blocks": ("local", "lsh"), "lsh": {"n_hashes": 2}, "axial": None})
    if preset == "tiny":
        config.steps = 5
    elif preset != "default":
        raise UserError(f"preset {preset!r}; tiny or default is allowed")
    return config
"""


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "experiment.py"
    path.write_text(EXPERIMENT)
    return str(path)


def test_a_file_fills_the_base_and_a_preset_changes_it(experiment):
    default, tiny = load_config(experiment), load_config(f"{experiment}:tiny")
    assert (default.steps, tiny.steps, tiny.model.blocks) == (1000, 5, ("local", "lsh"))
    assert tiny.is_locked and tiny.model.lsh.is_locked


def test_a_directory_may_be_named_like_a_file(tmp_path):
    path = tmp_path / "x.pyenv" / "y.py" / "experiment.py"
    path.parent.mkdir(parents=True)
    path.write_text(EXPERIMENT)
    assert (load_config(f"{path}:tiny").steps, load_config(f"{path}").steps, load_config(f"{path}:").steps) == (
        5,
        1000,
        1000,
    )


def test_files_and_presets_that_do_not_exist(experiment, tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*absent\.py"):
        load_config(str(tmp_path / "absent.py:tiny"))
    with pytest.raises(UserError, match=r"expected a Python file"):
        load_config("experiment:tiny")
    with pytest.raises(UserError, match=r"preset 'huge'"):
        load_config(f"{experiment}:huge")
    (tmp_path / "plain.py").write_text("def get_config():\n    raise AssertionError\n")
    with pytest.raises(UserError, match="has no presets"):
        load_config(str(tmp_path / "plain.py:tiny"))
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match="does not define get_config"):
        load_config(str(tmp_path / "empty.py"))


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "20", 20),
        ("steps", "1_000", 1000),
        ("optimizer.learning_rate", "1e-3", 1e-3),
        ("optimizer.learning_rate", "1", 1.0),
        ("data.path", "enwik8.xz", "enwik8.xz"),
        ("sample.prompt", "12", "12"),
        ("eval.test", "False", False),
        ("model.blocks", "('lsh',)", ("lsh",)),
        ("model.blocks", "['lsh', 'local']", ("lsh", "local")),
        ("model.axial", "(4, 8)", (4, 8)),
        ("model.lsh.n_hashes", "8", 8),
        ("sharding", "(('kernel', (None, 'tensor')),)", (("kernel", (None, "tensor")),)),
    ],
)
def test_an_override_is_read_as_the_type_of_its_field(experiment, key, text, value):
    changed = flatten(apply_overrides(load_config(experiment), [(key, text)]))[key]
    assert changed == value and type(changed) is type(value)


def test_an_unknown_field_names_the_nearest(experiment):
    with pytest.raises(UserError, match=r"--config\.optimizer\.warmpu: .* nearest is --config\.optimizer\.warmup$"):
        apply_overrides(load_config(experiment), [("optimizer.warmpu", "5")])
    with pytest.raises(UserError, match=r"nearest is --config\.model\.lsh\.n_hashes$"):
        apply_overrides(load_config(experiment), [("model.lsh.n_hash", "5")])
    with pytest.raises(UserError, match="there is no such field"):
        apply_overrides(load_config(experiment), [("optimizer", "5")])


@pytest.mark.parametrize(
    ("key", "text", "kind"),
    [
        ("steps", "many", "int"),
        ("steps", "1.5", "int"),
        ("steps", "True", "int"),
        ("eval.test", "yes", "bool"),
        ("eval.test", "1", "bool"),
        ("optimizer.b1", "high", "float"),
        ("model.blocks", "lsh", "tuple"),
    ],
)
def test_a_wrong_type_is_named(experiment, key, text, kind):
    with pytest.raises(UserError, match=rf"--config\.{key}={text}: expected {kind}, such as"):
        apply_overrides(load_config(experiment), [(key, text)])


def test_a_misspelt_field_in_a_file_is_an_error():
    with pytest.raises(AttributeError):
        base_config().stesp = 3
    with pytest.raises(AttributeError):
        base_config().optimizer.warmpu = 3


def test_counts_below_one_and_indivisible_batches_are_refused():
    check_config(base_config())
    for key, text in (("steps", "0"), ("log_every", "-1"), ("checkpoint.keep", "0")):
        with pytest.raises(UserError, match=rf"config\.{key}={text}; 1 or more"):
            check_config(apply_overrides(base_config(), [(key, text)]))
    with pytest.raises(UserError, match=r"config\.accumulate=3 does not divide config\.batch_size=8"):
        check_config(apply_overrides(base_config(), [("accumulate", "3")]))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (("kernel", ("fsdp",)), "rule 'kernel' is no pair"),
        ((("kernel", "fsdp"),), r"rule \('kernel', 'fsdp'\) is no pair"),
        (((None, ("fsdp",)),), "is no pair"),
        ((("kernel", ("fsdp",), 1),), "is no pair"),
        ((("ker(nel", ("fsdp",)),), r"'ker\(nel' in rule .* is no regex"),
    ],
)
def test_a_sharding_rule_is_a_regex_and_a_tuple(rules, message):
    with pytest.raises(UserError, match=f"config\\.sharding: .*{message}"):
        check_config(apply_overrides(base_config(), [("sharding", repr(rules))]))
    check_config(apply_overrides(base_config(), [("sharding", "(('kernel$', (None, ('data', 'fsdp'))),)")]))


def test_a_stride_beyond_the_context_is_refused():
    with pytest.raises(UserError, match=r"config\.eval\.stride=256, config\.eval\.context=128"):
        check_config(apply_overrides(base_config(), [("eval.context", "128")]))
    check_config(apply_overrides(base_config(), [("eval.context", "128"), ("eval.stride", "128")]))


def test_every_field_is_described():
    text = describe_fields()
    assert all(f"--config.{key}" in text and meaning in text for key, _, meaning in FIELDS)
    assert {key for key, _, _ in FIELDS} == set(flatten(base_config()))


def test_flatten_names_nested_fields():
    assert flatten(ConfigDict({"a": 1, "b": {"c": {"d": 2}}})) == {"a": 1, "b.c.d": 2}
