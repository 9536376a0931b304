"""Variants of a recorded waveform that keep what is said and felt, and change who says it and where.

For: training on few speakers without learning them by heart: voices of other size, rooms of other colour, other
distances from the microphone, and noise.
Does not know: features, files or labels.
Source: speed perturbation as in Ko et al., "Audio augmentation for speech recognition", Interspeech 2015; the rest are
the usual recording conditions.

Shapes: S samples; a variant has another S, as its speed differs.
"""

import hashlib
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import soxr
from scipy.ndimage import uniform_filter1d

from model.features.audio import SAMPLE_RATE

FloatArray = npt.NDArray[np.float32]

SPEED: Final = (0.85, 1.18)
"""Factor on speed and pitch together, as resampling changes both: roughly a larger or a smaller speaker."""
TILT: Final = (-0.35, 0.35)
"""Coefficient of a one-tap filter: negative brightens, positive dulls."""
GAIN_DB: Final = (-10.0, 10.0)
NOISE_SNR_DB: Final = (8.0, 40.0)
BROWN_NOISE_SHARE: Final = 0.5
BROWN_NOISE_WINDOW: Final = 400  # samples, 25 ms: drift slower than about 40 Hz is taken out of brown noise
_POWER_FLOOR: Final = 1e-12  # keeps the level of silence finite


def variant(waveform: FloatArray, index: int) -> FloatArray:
    """The waveform's variant of a given number: the same for the same content and number, on every run.

    Args:
        waveform: `(S,)` float32, mono, at `SAMPLE_RATE`.
        index: 0 for the waveform itself, k > 0 for its k-th variant.

    Returns:
        `(S',)` float32.
    """
    if index == 0:
        return waveform
    content = np.ascontiguousarray(waveform, dtype="<f4").tobytes() + index.to_bytes(8, "little")
    seed = int.from_bytes(hashlib.sha256(content).digest()[:16], "little")
    return augment(waveform, np.random.default_rng(seed))


def augment(waveform: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Change speed and pitch, spectral tilt and gain, and add white or brown noise.

    Args:
        waveform: `(S,)` float32, mono, at `SAMPLE_RATE`.
        rng: where every choice is drawn from.

    Returns:
        `(S',)` float32, S' = S / speed within a sample; its peak may pass 1.

    Raises:
        ValueError: the waveform is not one-dimensional.
    """
    if waveform.ndim != 1:
        raise ValueError(f"waveform must be one-dimensional, got shape {waveform.shape}")
    if waveform.size == 0:
        return waveform
    varied = _change_speed(waveform, float(rng.uniform(*SPEED)))
    varied = _tilt(varied, float(rng.uniform(*TILT)))
    varied = varied * np.float32(10 ** (rng.uniform(*GAIN_DB) / 20))
    return _add_noise(varied, float(rng.uniform(*NOISE_SNR_DB)), rng)


def _change_speed(waveform: FloatArray, factor: float) -> FloatArray:
    resampled = soxr.resample(waveform, SAMPLE_RATE, int(SAMPLE_RATE / factor), quality="MQ")
    return cast(FloatArray, resampled.astype(np.float32, copy=False))


def _tilt(waveform: FloatArray, coefficient: float) -> FloatArray:
    tilted = waveform.copy()
    tilted[1:] += np.float32(coefficient) * waveform[:-1]
    return tilted


def _add_noise(waveform: FloatArray, snr_db: float, rng: np.random.Generator) -> FloatArray:
    noise = rng.standard_normal(waveform.size)
    if rng.random() < BROWN_NOISE_SHARE:
        noise = np.cumsum(noise)
        noise -= uniform_filter1d(noise, BROWN_NOISE_WINDOW, mode="constant")
    level = _root_mean_square(waveform) / _root_mean_square(noise) * 10 ** (-snr_db / 20)
    return (waveform + level * noise).astype(np.float32)


def _root_mean_square(waveform: npt.NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)) + _POWER_FLOOR))
