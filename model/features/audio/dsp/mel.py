"""Mel filter bank and mel-frequency cepstral coefficients, bit-equal to `librosa.feature.mfcc` 0.11.

Own code: it takes the spectrogram that harmonic separation computes as well, and builds the filters once.
Shapes: T frames of the clip, t of a block, F frequency bins, M mel bands.
"""

from functools import lru_cache
from typing import Final, cast

import numpy as np
import scipy  # imports its modules at their first use, for text alone never

from model.features.audio import SAMPLE_RATE
from model.features.audio.dsp.stft import N_FFT
from model.types import FloatArray

N_MFCC: Final = 20
N_MELS: Final = 128  # librosa's default
# Mel scale of Slaney's Auditory Toolbox (1998): linear below the break frequency, logarithmic above.
_BREAK: Final = 1000.0  # Hz
_STEP: Final = 200.0 / 3  # Hz per mel below the break frequency
_LOG_STEP: Final = np.log(6.4) / 27.0  # log(Hz) per mel above it
_MIN_POWER: Final = 1e-10
_RANGE: Final = 80.0  # dB below the clip's maximum; lower values are raised to this


def mel_power(magnitude: FloatArray) -> FloatArray:
    """Power in each mel band, `(t, F)` magnitudes → `(t, M)`."""
    # Operands in librosa's order: BLAS may round a product and its transpose differently.
    power: FloatArray = np.dot(mel_filters(), np.square(magnitude).T).T
    return power


def cepstrum(power: FloatArray) -> FloatArray:
    """MFCC of a whole clip from its mel power, `(T, M)` → `(T, N_MFCC)`."""
    decibels = 10.0 * np.log10(np.maximum(_MIN_POWER, power))
    decibels = np.maximum(decibels, decibels.max() - _RANGE)
    return cast(FloatArray, scipy.fft.dct(decibels, type=2, norm="ortho", axis=1)[:, :N_MFCC])


@lru_cache(maxsize=2)
def mel_filters(n_fft: int = N_FFT, n_mels: int = N_MELS) -> FloatArray:
    """Return triangular filters of equal area, `(M, F)`, read-only."""
    bins = np.arange(1 + n_fft // 2) * (SAMPLE_RATE / n_fft)
    highest = _BREAK / _STEP + np.log(SAMPLE_RATE / 2 / _BREAK) / _LOG_STEP  # mel value of half the sampling rate
    mels = np.linspace(0.0, highest, n_mels + 2)
    above = _BREAK * np.exp(_LOG_STEP * (mels - _BREAK / _STEP))
    corners = np.where(mels < _BREAK / _STEP, mels * _STEP, above)  # Hz
    widths = np.diff(corners)
    ramps = np.subtract.outer(corners, bins)
    rising, falling = -ramps[:-2] / widths[:-1, None], ramps[2:] / widths[1:, None]
    filters: FloatArray = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    filters *= (2.0 / (corners[2:] - corners[:-2]))[:, None]
    filters.flags.writeable = False
    return filters
