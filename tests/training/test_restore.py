"""Parameters of a run, back on every device at hand, and never under another vocabulary."""

import jax
import numpy as np
import pytest

from effjax.errors import UserError
from effjax.training.loop import train
from effjax.training.restore import restore_on_all_devices
from tests.training.fake_task import FakeTask, fake_config

pytestmark = pytest.mark.eight_devices


def test_parameters_are_on_every_device_and_another_vocabulary_is_refused(tmp_path):
    options = dict(steps=1, data__vocabulary="bytes+2", eval__test=False, sample__length=0)
    config = fake_config(**options)
    train(FakeTask(config), config, str(tmp_path))
    step, params, mesh = restore_on_all_devices(FakeTask(config), str(tmp_path))
    assert (step, mesh.shape["data"]) == (1, jax.device_count())
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(params))
    assert np.isfinite(params["out"]["kernel"]).all()
    other = FakeTask(fake_config(**options | dict(data__vocabulary="bytes")))
    with pytest.raises(UserError, match=r"the run in .* uses vocabulary 'bytes\+2', the configuration 'bytes'"):
        restore_on_all_devices(other, str(tmp_path))
