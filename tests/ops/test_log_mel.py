"""The front end against scipy's spectrogram with bands by interpolation, and what padding must not do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from effjax.ops.log_mel import log_mel, normalise_frames
from effjax.ops.spec_augment import spec_augment

RATE, LENGTHS = 8000, (1500, 700, 199)
OPTIONS = dict(sample_rate=RATE, n_mels=10)


def sound():
    return np.random.default_rng(0).normal(size=(3, 1500)).astype(np.float32)


def by_scipy(x):
    """float64: scipy's spectrogram, mel corners by the natural logarithm, triangles by `np.interp`."""
    x = scipy.signal.lfilter([1, -0.97], 1, x.astype(np.float64))
    options = dict(window="hann", nperseg=200, noverlap=120, nfft=256, detrend=False, scaling="spectrum", mode="psd")
    frequencies, _, power = scipy.signal.spectrogram(x, RATE, **options)
    power = power * scipy.signal.get_window("hann", 200).sum() ** 2
    power[1:-1] /= 2  # scipy adds the negative frequencies
    mel = lambda f: 1127 * np.log1p(f / 700)
    corners = np.linspace(mel(20), mel(4000), 12)
    bands = np.stack([np.interp(mel(frequencies), corners[i : i + 3], [0, 1, 0]) for i in range(10)])
    return np.log(np.maximum(power.T @ bands.T, 1e-10))


def test_log_mel_is_that_of_scipy():
    x = sound()
    y, mask = jax.jit(lambda x, n: log_mel(x, n, **OPTIONS))(x, jnp.array(LENGTHS))
    assert mask.sum(1).tolist() == [17, 7, 0]
    for row, length in enumerate(LENGTHS[:2]):
        expected = by_scipy(x[row, :length])
        np.testing.assert_allclose(y[row, : len(expected)], expected, atol=2e-3)
        assert not np.asarray(y[row, len(expected) :]).any()


def test_padding_changes_nothing_up_to_the_masks():
    x, lengths = sound(), jnp.array(LENGTHS)
    dirty = np.where(np.arange(1500) < np.array(LENGTHS)[:, None], x, np.nan)
    dirty = np.pad(dirty, ((0, 0), (0, 400)), constant_values=np.inf)

    @jax.jit
    def run(x):
        y, mask = log_mel(x, lengths, **OPTIONS)
        y = normalise_frames(y, mask)
        options = dict(frequency_width=3, n_time_masks=3, time_ratio=0.3)
        return y[:, :17], spec_augment(y, mask, key=jax.random.key(1), **options)[:, :17]

    plain, masked = run(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), run(dirty), (plain, masked))
    real = np.asarray(plain)[0]
    np.testing.assert_allclose(real.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(real.std(0), 1, atol=1e-3)


def test_masks_are_whole_bands_and_short_stretches():
    x, lengths = jnp.ones((4, 200, 20)), np.array([200, 100, 40, 3])
    mask = jnp.arange(200) < lengths[:, None]
    run = jax.jit(lambda key: spec_augment(x, mask, key=key, frequency_width=5, n_frequency_masks=1, n_time_masks=1))
    widths, stretches = [], []
    for seed in range(60):
        y = np.asarray(run(jax.random.key(seed)))
        for row in y:
            bands, times = ~row.any(0), ~row.any(1)
            np.testing.assert_array_equal(row, ~(bands | times[:, None]))  # nothing but whole bands and stretches
            assert np.count_nonzero(np.diff(bands)) <= 2 and np.count_nonzero(np.diff(times)) <= 2
            widths.append(bands.sum())
        stretches.append([(~row.any(1)).sum() for row in y])
        assert all(row[length:].any(1).all() for row, length in zip(y, lengths))
    assert set(widths) == set(range(6))
    assert np.max(stretches, axis=0).tolist() == [10, 5, 2, 0]  # 0.05 of each utterance


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(n_mels=200), "n_mels=200: a band holds none"),
        (dict(hop=0.0), "hop=0.0"),
        (dict(high=5000.0), "high=5000.0"),
    ],
)
def test_mistakes_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        log_mel(jnp.zeros((1, 400)), jnp.array([400]), **OPTIONS | options)
