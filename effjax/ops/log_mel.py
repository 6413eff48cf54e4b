"""The front end of speech recognition: from samples of sound to logarithms of energies on the mel scale."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

ENERGY_FLOOR = 1e-10  # what the logarithm takes for silence


def log_mel(
    samples: Float[Array, "B L"],
    lengths: Int[Array, " B"],
    *,
    sample_rate: int,
    n_mels: int = 80,
    window: float = 0.025,
    hop: float = 0.010,
    preemphasis: float = 0.97,
    low: float = 20.0,
    high: float | None = None,
) -> tuple[Float[Array, "B T n_mels"], Bool[Array, "B T"]]:
    """Log energies of overlapping frames in bands that are equally wide on the mel scale.

        y_tm = log max(sum_f M_mf |DFT(hann * e_t)_f|^2, 1e-10),   e_t: frame t of x_l - preemphasis x_{l-1}

    A frame is real where all its samples are; what stands behind an utterance's end, NaN too, changes nothing.

    Args:
      samples: sound, in [-1, 1].
      lengths: samples of each utterance.
      sample_rate: in Hz.
      n_mels: bands.
      window, hop: length of a frame, and the distance between two, in seconds.
      preemphasis: factor of the sample before, 0: none.
      low, high: edges of the lowest and the highest band, in Hz; high None: half the sample rate.

    Returns:
      The log energies, float32, 0 at padded frames; and which frames are real.

    Raises:
      ValueError: an option out of range, or bands so narrow that one of them holds no frequency.

    Source: Davis & Mermelstein 1980; the mel scale is that of the HTK book (Young et al. 2006), section 5.4.
    """
    size, step = round(window * sample_rate), round(hop * sample_rate)
    high = sample_rate / 2 if high is None else high
    if min(size, step, n_mels) < 1:
        raise ValueError(f"window={window}, hop={hop}, n_mels={n_mels}; at least a sample and a band are needed")
    if not 0 <= low < high <= sample_rate / 2:
        raise ValueError(f"low={low}, high={high}; 0 <= low < high <= {sample_rate / 2} Hz is allowed")
    n_fft = 1 << (size - 1).bit_length()
    bands = mel_bands(n_mels, n_fft, sample_rate, low, high)
    real = jnp.arange(samples.shape[1]) < lengths[:, None]
    x = jnp.where(real, samples, 0).astype(jnp.float32)
    x = x - preemphasis * jnp.pad(x, ((0, 0), (1, 0)))[:, :-1]
    count = max(0, 1 + (x.shape[1] - size) // step)
    frames = x[:, np.arange(count)[:, None] * step + np.arange(size)]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    spectrum = jnp.fft.rfft(frames * hann.astype(np.float32), n_fft)
    energies = (spectrum.real**2 + spectrum.imag**2) @ bands
    padding_mask = jnp.arange(count) < frames_of(lengths, size, step)[:, None]
    logs = jnp.log(jnp.maximum(energies, ENERGY_FLOOR))
    return jnp.where(padding_mask[..., None], logs, 0), padding_mask


def frames_of(lengths, size: int, step: int):
    """How many whole frames so many samples hold."""
    return jnp.maximum(0, 1 + (lengths - size) // step)


def mel_bands(n_mels: int, n_fft: int, sample_rate: int, low: float, high: float) -> np.ndarray:
    """Triangles `[n_fft / 2 + 1, n_mels]`, whose corners are equally far from each other in mel, of height 1."""
    mel = lambda hertz: 2595 * np.log10(1 + hertz / 700)
    corners = np.linspace(mel(low), mel(high), n_mels + 2)
    bins = mel(np.arange(n_fft // 2 + 1) * sample_rate / n_fft)[:, None]
    rising = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
    bands = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    if not bands.any(axis=0).all():
        raise ValueError(f"n_mels={n_mels}: a band holds none of the {n_fft // 2 + 1} frequencies; fewer are allowed")
    return bands


def normalise_frames(
    x: Float[Array, "B T F"], padding_mask: Bool[Array, "B T"], *, epsilon: float = 1e-5
) -> Float[Array, "B T F"]:
    """Mean 0 and variance 1 of every feature over the real frames of each utterance; 0 at padded ones.

    Args:
      x: features.
      padding_mask: True at real frames.
      epsilon: added to the variance.
    """
    real = padding_mask[..., None]
    count = jnp.maximum(real.sum(1, keepdims=True), 1)
    average = lambda values: jnp.sum(jnp.where(real, values, 0), axis=1, keepdims=True) / count
    centred = jnp.where(real, x, 0) - average(x)
    return jnp.where(real, centred / jnp.sqrt(average(centred**2) + epsilon), 0)
