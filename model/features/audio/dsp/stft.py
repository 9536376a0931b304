"""Short-time Fourier transform and its inverse, bit-equal to `librosa.stft` and `librosa.istft` 0.11.

Own code: it transforms a clip in blocks of frames, so that memory does not grow with the spectrogram. Frames are rows.
Shapes: S samples, T = 1 + S // HOP_LENGTH frames, F = N_BINS frequency bins.
"""

from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy  # imports its modules at their first use, for text alone never

from model.types import ComplexArray, DoubleArray, FloatArray

HOP_LENGTH: Final = 512  # samples between frames: 32 ms
N_FFT: Final = 2048  # samples, librosa's default for MFCC, HPSS and the tuning estimate
N_BINS: Final = 1 + N_FFT // 2
_OVERLAP: Final = N_FFT // HOP_LENGTH  # frames that cover a sample
_CENTRE: Final = N_FFT // 2  # samples of padding at either end
_ROWS: Final = 32  # frames transformed at once: input and output fit in the L2 cache

assert _OVERLAP * HOP_LENGTH == N_FFT, "frames overlap in whole hops"


def frame_count(samples: int) -> int:
    """Return T."""
    return 1 + samples // HOP_LENGTH


def centred_frames(waveform: FloatArray, length: int, hop: int) -> npt.NDArray[Any]:
    """Frames of `length` samples centred on every `hop`-th sample: `(1 + S // hop, length)` float64, a view.

    They are float64 because librosa's windows are, so that a sample that several frames share is converted once.
    """
    margin = length // 2
    padded = np.empty(margin + waveform.size + margin)
    padded[:margin] = padded[margin + waveform.size :] = 0
    padded[margin : margin + waveform.size] = waveform
    return np.lib.stride_tricks.sliding_window_view(padded, length)[::hop]


def spectrum(frames: FloatArray) -> ComplexArray:
    """Fourier transform of frames after windowing, `(T, N_FFT)` → `(T, F)`.

    The window is float64 and the result complex64, as in librosa: the tuning estimate depends on the last bit.
    """
    out = np.empty((len(frames), N_BINS), dtype=np.complex64)
    for first in range(0, len(frames), _ROWS):
        windowed = frames[first : first + _ROWS] * _WINDOW
        out[first : first + _ROWS] = scipy.fft.rfft(windowed, axis=1, overwrite_x=True)
    return out


def periodic_hann(length: int) -> DoubleArray:
    """Return the periodic (DFT-even) Hann window, `(length,)`."""
    angles = np.linspace(-np.pi, np.pi, length + 1)[:-1]
    return 0.5 + 0.5 * np.cos(angles)


_WINDOW: Final = periodic_hann(N_FFT)


class OverlapAdd:
    """Inverse transform by overlap-add; spectra are added in blocks, from the first frame to the last."""

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._frames = frame_count(samples)
        self._next = 0
        self._hops = np.zeros((self._frames + _OVERLAP - 1, HOP_LENGTH), dtype=np.float32)

    def add(self, spectra: ComplexArray) -> None:
        """Add the next `(t, F)` frames.

        Frames are summed from the earliest to the latest and rounded to float32 after each, as in librosa.
        """
        for first in range(0, len(spectra), _ROWS):
            frames = scipy.fft.irfft(spectra[first : first + _ROWS], n=N_FFT, axis=1)
            _overlap_add(self._hops[self._next :], frames.reshape(-1, _OVERLAP, HOP_LENGTH), _WINDOW)
            self._next += len(frames)

    def waveform(self) -> FloatArray:
        """Return the sum divided by the squared-window sum, without the padding; `(S,)`."""
        assert self._next == self._frames, "every frame must have been added"
        sums = _window_sums(min(self._frames, _OVERLAP))
        for part, weights in zip(_regions(self._hops), _regions(sums), strict=True):
            np.divide(part, weights, out=part, where=weights > np.finfo(np.float32).tiny)
        return self._hops.reshape(-1)[_CENTRE : _CENTRE + self._samples]


def _overlap_add(hops: FloatArray, frames: FloatArray | DoubleArray, window: DoubleArray) -> None:
    """Window `(t, _OVERLAP, HOP_LENGTH)` frames and add them to the hops they cover."""
    weights = window.reshape(_OVERLAP, HOP_LENGTH)
    for part in reversed(range(_OVERLAP)):  # the last part first, so that each hop sums its frames in order
        covered = hops[part : part + len(frames)]
        np.add(covered, frames[:, part] * weights[part], out=covered, casting="same_kind")


@lru_cache(maxsize=_OVERLAP)
def _window_sums(frames: int) -> FloatArray:
    """Sum of squared windows over `frames` overlapping frames, `(frames + _OVERLAP - 1, HOP_LENGTH)`."""
    hops = np.zeros((frames + _OVERLAP - 1, HOP_LENGTH), dtype=np.float32)
    _overlap_add(hops, np.ones((frames, _OVERLAP, HOP_LENGTH), dtype=np.float32), _WINDOW**2)
    return hops


def _regions(hops: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Split into head, middle and tail; every hop of the middle is covered by `_OVERLAP` frames."""
    edge = _OVERLAP - 1
    if len(hops) < 2 * edge:
        return hops, hops[:0], hops[:0]
    return hops[:edge], hops[edge : len(hops) - edge], hops[len(hops) - edge :]
