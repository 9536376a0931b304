"""Short-time Fourier transform of a waveform and back, a stretch of frames at a time, bit for bit as librosa has it.

For: the acoustic features, which transform a clip twice and back once: on one time grid, with one cached window, in
stretches, so that an hour of sound needs no more memory than a minute.
Does not know: what a spectrum is for.
Source: `librosa.stft` and `librosa.istft` 0.11 with centred frames, zeros beyond the ends and a periodic Hann window.
Both window in double precision and keep single: so does this, since what follows (a histogram's mode in
`model.features.audio.dsp.tuning`) can turn on the last bit. Frames are rows here and columns there.

Shapes: S samples, T = 1 + S // hop frames, n samples a frame, F = 1 + n // 2 frequency bins.
"""

from functools import lru_cache
from typing import Final

import numpy as np
import scipy.fft

from model.types import ComplexArray, DoubleArray, FloatArray

SAMPLE_RATE: Final = 16_000  # Hz, mono
HOP_LENGTH: Final = 512  # samples between frames: 32 ms
N_FFT: Final = 2048  # samples, librosa's default for MFCC, HPSS and the tuning estimate
N_BINS: Final = 1 + N_FFT // 2
_OVERLAP: Final = N_FFT // HOP_LENGTH  # frames that reach a sample
_CENTRE: Final = N_FFT // 2  # samples of padding at either end
_ROWS: Final = 32  # frames transformed at once: input and output stay within a core's cache

assert _OVERLAP * HOP_LENGTH == N_FFT, "frames overlap in whole hops"


def frame_count(samples: int) -> int:
    """Return T."""
    return 1 + samples // HOP_LENGTH


def centred_frames(waveform: FloatArray, length: int, hop: int) -> FloatArray:
    """Frames of `length` samples centred on every `hop`-th sample: `(1 + S // hop, length)`, a view."""
    padded = np.zeros(waveform.size + length // 2 * 2, dtype=np.float32)
    padded[length // 2 : length // 2 + waveform.size] = waveform
    return np.lib.stride_tricks.sliding_window_view(padded, length)[::hop]


def spectrum(frames: FloatArray) -> ComplexArray:
    """Fourier transform of windowed frames, `(T, N_FFT)` → `(T, N_BINS)`."""
    out = np.empty((len(frames), N_BINS), dtype=np.complex64)
    for first in range(0, len(frames), _ROWS):
        windowed = frames[first : first + _ROWS] * _window()
        out[first : first + _ROWS] = scipy.fft.rfft(windowed, axis=1, overwrite_x=True)
    return out


def periodic_hann(length: int) -> DoubleArray:
    """Return a Hann window whose next value would be its first again; `(length,)`."""
    angles = np.linspace(-np.pi, np.pi, length + 1)[:-1]
    return 0.5 + 0.5 * np.cos(angles)


class OverlapAdd:
    """The way back: spectra come in by stretches, from the first frame to the last, and leave as one waveform."""

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._frames = frame_count(samples)
        self._next = 0
        self._hops = np.zeros((self._frames + _OVERLAP - 1, HOP_LENGTH), dtype=np.float32)

    def add(self, spectra: ComplexArray) -> None:
        """Add the next `(t, N_BINS)` frames.

        Every sample takes its frames from the earliest to the latest and is rounded after each, as in librosa.
        """
        for first in range(0, len(spectra), _ROWS):
            frames = scipy.fft.irfft(spectra[first : first + _ROWS], n=N_FFT, axis=1)
            _overlap_add(self._hops[self._next :], frames.reshape(-1, _OVERLAP, HOP_LENGTH), _window())
            self._next += len(frames)

    def waveform(self) -> FloatArray:
        """Divide by what the windows add up to, and cut off the padding; `(S,)`."""
        assert self._next == self._frames, "every frame must have been added"
        sums = _window_sums(min(self._frames, _OVERLAP))
        for part, weights in zip(_regions(self._hops), _regions(sums), strict=True):
            np.divide(part, weights, out=part, where=weights > np.finfo(np.float32).tiny)
        return self._hops.reshape(-1)[_CENTRE : _CENTRE + self._samples]


def _overlap_add(hops: FloatArray, frames: FloatArray | DoubleArray, window: DoubleArray) -> None:
    """Add `(t, _OVERLAP, HOP_LENGTH)` frames, windowed, to the hops they cover."""
    weights = window.reshape(_OVERLAP, HOP_LENGTH)
    for part in reversed(range(_OVERLAP)):  # a frame's last part meets the earliest frames' sums first
        covered = hops[part : part + len(frames)]
        np.add(covered, frames[:, part] * weights[part], out=covered, casting="same_kind")


@lru_cache(maxsize=1)
def _window() -> DoubleArray:
    window = periodic_hann(N_FFT)
    window.flags.writeable = False
    return window


@lru_cache(maxsize=_OVERLAP)
def _window_sums(frames: int) -> FloatArray:
    """The squared windows of so many frames, overlapped and added."""
    hops = np.zeros((frames + _OVERLAP - 1, HOP_LENGTH), dtype=np.float32)
    _overlap_add(hops, np.ones((frames, _OVERLAP, HOP_LENGTH), dtype=np.float32), _window() ** 2)
    return hops


def _regions(hops: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Head, middle and tail: in the middle, every hop is reached by as many frames as any."""
    edge = _OVERLAP - 1
    if len(hops) < 2 * edge:
        return hops, hops[:0], hops[:0]
    return hops[:edge], hops[edge : len(hops) - edge], hops[len(hops) - edge :]
