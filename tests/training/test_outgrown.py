"""A task whose static size follows its parameters: results are those of a task that always was large enough."""

import os
import signal

import jax.numpy as jnp
import pytest

from tests.training.fake_task import FakeTask, Reader
from tests.training.test_loop import rows_of, run

OPTIONS = dict(log_every=4, eval__every=6, checkpoint__every=5, model__carry=True, model__bad_steps=(3,))


class Growing(FakeTask):
    """Fits biases below `size` hundredths; a loss that is computed with too small a size is NaN."""

    size, compiled = 2, []

    def greatest(self, params):
        return 100 * jnp.abs(params["out"]["bias"]).max()

    def fits(self, params):
        return self.greatest(params) < self.size

    def adapt(self, params, *, frozen=False):
        enough = int(self.greatest(params)) + 1
        return self if enough <= self.size <= enough + 16 else self.readapted(enough + 7)

    @property
    def adapted(self):
        return self.size

    def readapted(self, adapted):
        task = type(self)(self.config)
        task.size = adapted
        return task

    def loss(self, params, batch, carry=(), *, key=None, deterministic=True):
        if not deterministic and self.size not in self.compiled:
            self.compiled.append(self.size)
        loss, rest = super().loss(params, batch, carry, key=key, deterministic=deterministic)
        return jnp.where(self.fits(params), loss, jnp.nan), rest


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("plain")
    return workdir, run(workdir, **OPTIONS)


SELDOM = pytest.param(dict(log_every=100, eval__every=0, checkpoint__every=0), id="seldom", marks=pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize("options", [pytest.param({}, id="often"), SELDOM])
def test_steps_that_do_not_fit_are_taken_again(plain, tmp_path, capsys, monkeypatch, options):
    monkeypatch.setattr(Growing, "compiled", [])
    result = run(tmp_path, task=Growing, **OPTIONS | options)
    assert result == plain[1]
    assert len(Growing.compiled) > 1 and "outgrew the compiled step after step" in capsys.readouterr().out
    if not options:
        assert rows_of(tmp_path) == rows_of(plain[0])
    assert rows_of(tmp_path)[-1]["train/skipped"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("stop", [2, 7, 10])
def test_an_interruption_leaves_no_trace(plain, tmp_path, monkeypatch, stop):
    """Signalled while batch `stop` is read, whether the step still fits or not; sizes go on as they were."""

    class Interrupted(Growing):
        def train_reader(self, *share):
            class SendingReader(Reader):
                def iterate(self, start_step):
                    for step, batch in enumerate(super().iterate(start_step), start_step + 1):
                        if step == stop:
                            os.kill(os.getpid(), signal.SIGTERM)
                        yield batch

            return SendingReader(self.config, *share)

    monkeypatch.setattr(Growing, "compiled", [])
    run(tmp_path / "whole", task=Growing, **OPTIONS)
    sizes = list(Growing.compiled)
    Growing.compiled.clear()
    assert run(tmp_path / "parts", task=Interrupted, **OPTIONS) == {}
    assert run(tmp_path / "parts", task=Growing, **OPTIONS) == plain[1]
    assert rows_of(tmp_path / "parts") == rows_of(plain[0])
    assert list(dict.fromkeys(Growing.compiled)) == sizes
