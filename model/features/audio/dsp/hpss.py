"""The harmonic part of a sound: what is sustained in time, without what is spread over frequency.

For: chroma, which is of the harmonic part alone.
Does not know: what the harmonic part is for.
Source: Fitzgerald's median filtering (DAFx 2010) with Driedger's soft mask, bit for bit as `librosa.effects.harmonic`
0.11 with its default arguments.

Shapes: S samples, T frames of the clip, t of a stretch, F frequency bins.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from model.features.audio.dsp.running_median import WINDOW, rows_needed, running_median
from model.features.audio.dsp.stft import HOP_LENGTH, N_BINS, N_FFT, centred_frames, spectrum
from model.types import ComplexArray, FloatArray

STRETCH: Final = 512  # frames looked at in one go: 16 s
_HALF: Final = WINDOW // 2  # frames or bins on either side of a median's centre
_COLUMNS: Final = 128  # frames whose bins are filtered at once
_ROWS: Final = 32  # frames masked at once, so that arrays stay within a core's cache
_TINY: Final = np.finfo(np.float32).tiny
_LEAST: Final = np.finfo(np.float32).smallest_subnormal


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some frames of a clip, and beside them the frames that their medians reach.

    Args:
        spectrum: `(t, F)`.
        context: `(rows_needed(t), F)`: magnitudes from `_HALF` frames before the stretch to as many after it, mirrored
            at the clip's ends, then padding.
        first: number of the first frame in the clip.
    """

    spectrum: ComplexArray
    context: FloatArray
    first: int

    @property
    def magnitude(self) -> FloatArray:
        """Magnitude of the spectrum, `(t, F)`."""
        return self.context[_HALF : _HALF + len(self.spectrum)]


def stretches(waveform: FloatArray) -> Iterator[Stretch]:
    """Transform a `(S,)` waveform, stretch by stretch. Frames beside two stretches are transformed for each."""
    frames = centred_frames(waveform, N_FFT, HOP_LENGTH)
    total = len(frames)
    # A mirror repeats the frame at the edge, and the whole clip when that is shorter than half a window.
    mirrored = np.pad(np.arange(total), _HALF, mode="symmetric")
    for first in range(0, total, STRETCH):
        count = min(STRETCH, total - first)
        begin, end = max(0, first - _HALF), min(total, first + count + _HALF)
        spectra = spectrum(frames[begin:end])
        context = np.zeros((rows_needed(count), N_BINS), dtype=np.float32)
        shift = _HALF - first  # from a frame's number to its row
        np.abs(spectra, out=context[begin + shift : end + shift])
        rows = np.arange(count + 2 * _HALF)
        sources = mirrored[first : first + len(rows)] + shift
        beyond = rows[rows != sources]
        context[beyond] = context[sources[beyond]]
        yield Stretch(spectra[first - begin : first - begin + count], context, first)


def keep_harmonic(stretch: Stretch) -> ComplexArray:
    """Take all but the harmonic part out of a stretch's spectrum; `(t, F)`, the same array."""
    spectra, magnitude = stretch.spectrum, stretch.magnitude
    harmonic = running_median(stretch.context, len(spectra))  # along time: sustained partials survive
    for first in range(0, len(spectra), _COLUMNS):
        percussive = _median_of_bins(magnitude[first : first + _COLUMNS])  # along frequency: clicks survive
        for begin in range(0, len(percussive), _ROWS):
            rows = slice(first + begin, first + min(begin + _ROWS, len(percussive)))
            # librosa multiplies magnitude by mask and that by phase. The order matters: the tuning estimate behind the
            # chroma is a histogram's mode, and a last-bit difference here can move it.
            gain = _soft_mask(harmonic[rows], percussive[begin : begin + _ROWS])
            gain *= magnitude[rows]
            nonzero = np.maximum(magnitude[rows], _LEAST)
            for part in (spectra.real[rows], spectra.imag[rows]):
                np.divide(part, nonzero, out=part)
                np.multiply(part, gain, out=part)
    return spectra


def _median_of_bins(magnitude: FloatArray) -> FloatArray:
    """Centred running median of each row, edges mirrored; shape kept."""
    rows = np.zeros((rows_needed(N_BINS), len(magnitude)), dtype=np.float32)
    rows[_HALF : _HALF + N_BINS] = magnitude.T
    rows[:_HALF] = rows[2 * _HALF - 1 : _HALF - 1 : -1]
    rows[_HALF + N_BINS : 2 * _HALF + N_BINS] = rows[_HALF + N_BINS - 1 : N_BINS - 1 : -1]
    return np.ascontiguousarray(running_median(rows, N_BINS).T)


def _soft_mask(part: FloatArray, other: FloatArray) -> FloatArray:
    """part² / (part² + other²), each relative to the larger one; a half where both are as good as nothing."""
    larger = np.maximum(part, other)
    nothing = larger < _TINY
    empty = bool(nothing.any())
    if empty:
        larger[nothing] = 1
    mask: FloatArray = np.square(part / larger)
    both = mask + np.square(other / larger)
    if empty:
        mask[nothing], both[nothing] = 1, 2
    return np.divide(mask, both, out=mask)
