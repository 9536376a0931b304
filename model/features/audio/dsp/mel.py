"""Mel-frequency cepstral coefficients from magnitudes.

For: twenty of the acoustic features.
Does not know: the waveform; it is handed the spectrogram that harmonic separation needs as well.
Source: `librosa.feature.mfcc` 0.11 with its default arguments, bit for bit, with the mel scale of Slaney's Auditory
Toolbox (1998). The filters are built once.

Shapes: T frames of the clip, t of a stretch, F frequency bins, M mel bands.
"""

from functools import lru_cache
from typing import Final, cast

import numpy as np
import scipy.fft

from model.features.audio.dsp.stft import N_FFT, SAMPLE_RATE
from model.types import DoubleArray, FloatArray

N_MFCC: Final = 20
N_MELS: Final = 128  # librosa's default
_BEND: Final = 1000.0  # Hz; the mel scale is linear below and logarithmic above
_STEP: Final = 200.0 / 3  # Hz a mel, below
_LOG_STEP: Final = np.log(6.4) / 27.0  # of the frequency's logarithm a mel, above
_LEAST: Final = 1e-10  # power; what is less counts as this
_RANGE: Final = 80.0  # dB under the loudest of the clip; what is further down is raised to it


def mel_power(magnitude: FloatArray) -> FloatArray:
    """Power in each mel band, `(t, F)` magnitudes → `(t, M)`."""
    # In librosa's order of operands: a kernel may round a product and its transpose differently.
    power: FloatArray = np.dot(mel_filters(), np.square(magnitude).T).T
    return power


def cepstrum(power: FloatArray) -> FloatArray:
    """Coefficients of a whole clip, `(T, M)` → `(T, N_MFCC)`."""
    decibels = 10.0 * np.log10(np.maximum(_LEAST, power))
    decibels = np.maximum(decibels, decibels.max() - _RANGE)
    return cast(FloatArray, scipy.fft.dct(decibels, type=2, norm="ortho", axis=1)[:, :N_MFCC])


@lru_cache(maxsize=2)
def mel_filters(n_fft: int = N_FFT, n_mels: int = N_MELS) -> FloatArray:
    """Return the triangular filters, each of the same area; `(M, F)`, not to be written to."""
    bins = np.arange(1 + n_fft // 2) * (SAMPLE_RATE / n_fft)
    corners = _hertz_of_mels(np.linspace(0.0, _mels_of_hertz(SAMPLE_RATE / 2), n_mels + 2))
    widths = np.diff(corners)
    ramps = np.subtract.outer(corners, bins)
    rising, falling = -ramps[:-2] / widths[:-1, None], ramps[2:] / widths[1:, None]
    filters: FloatArray = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    filters *= (2.0 / (corners[2:] - corners[:-2]))[:, None]
    filters.flags.writeable = False
    return filters


def _hertz_of_mels(mels: DoubleArray) -> DoubleArray:
    return np.where(mels < _BEND / _STEP, mels * _STEP, _BEND * np.exp(_LOG_STEP * (mels - _BEND / _STEP)))


def _mels_of_hertz(hertz: float) -> float:
    """Of a frequency above the bend."""
    return float(_BEND / _STEP + np.log(hertz / _BEND) / _LOG_STEP)
