"""The example projects train, each as a person would start it but for the steps."""

import importlib.util
import pathlib

import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("project", ["linen_project", "nnx_project"])
def test_its_loss_falls(project):
    spec = importlib.util.spec_from_file_location(project, EXAMPLES / project / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    losses = module.main(steps=12)
    assert losses[0] > 5 and losses[-1] < losses[0] - 1.5, losses
