"""Harmonic part of a waveform (Fitzgerald, DAFx 2010; Driedger), bit-equal to `librosa.effects.harmonic` 0.11.

Own code: librosa's median filters take most of the time of the acoustic features; `running_median` is faster.
Shapes: S samples, T frames of the clip, t of a block, F frequency bins.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from model.features.audio.dsp.running_median import WINDOW, rows_needed, running_median
from model.features.audio.dsp.stft import HOP_LENGTH, N_BINS, N_FFT, centred_frames, spectrum
from model.types import ComplexArray, FloatArray

BLOCK_FRAMES: Final = 512  # frames processed at once: 16 s
_HALF: Final = WINDOW // 2  # frames or bins on either side of a median's centre
_COLUMNS: Final = 128  # frames filtered along frequency at once
_ROWS: Final = 32  # frames masked at once, so that arrays fit in the L2 cache
_TINY: Final = np.finfo(np.float32).tiny
_SMALLEST: Final = np.finfo(np.float32).smallest_subnormal


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive frames of a clip, with the neighbouring frames that their medians need.

    Args:
        spectrum: `(t, F)`.
        context: `(rows_needed(t), F)`: magnitudes from `_HALF` frames before the block to `_HALF` after it, mirrored
            at the clip's ends, then padding.
        first: index of the first frame in the clip.
    """

    spectrum: ComplexArray
    context: FloatArray
    first: int

    @property
    def magnitude(self) -> FloatArray:
        """Magnitude of the spectrum, `(t, F)`."""
        return self.context[_HALF : _HALF + len(self.spectrum)]


def blocks(waveform: FloatArray) -> Iterator[Block]:
    """Transform a `(S,)` waveform block by block. Frames that two blocks need are transformed for each."""
    frames = centred_frames(waveform, N_FFT, HOP_LENGTH)
    total = len(frames)
    # `symmetric` repeats the frame at the edge, and the whole clip if it is shorter than half a window. librosa's
    # medians are not defined there: SciPy's filter reads beyond an array that is shorter than half its window.
    mirrored = np.pad(np.arange(total), _HALF, mode="symmetric")
    for first in range(0, total, BLOCK_FRAMES):
        count = min(BLOCK_FRAMES, total - first)
        begin, end = max(0, first - _HALF), min(total, first + count + _HALF)
        spectra = spectrum(frames[begin:end])
        context = np.zeros((rows_needed(count), N_BINS), dtype=np.float32)
        shift = _HALF - first  # from a frame's index to its row
        np.abs(spectra, out=context[begin + shift : end + shift])
        rows = np.arange(count + 2 * _HALF)
        sources = mirrored[first : first + len(rows)] + shift
        beyond = rows[rows != sources]
        context[beyond] = context[sources[beyond]]
        yield Block(spectra[first - begin : first - begin + count], context, first)


def keep_harmonic(block: Block) -> ComplexArray:
    """Mask a block's spectrum in place so that the harmonic part remains; returns it, `(t, F)`."""
    spectra, magnitude = block.spectrum, block.magnitude
    harmonic = running_median(block.context, len(spectra))  # along time: sustained partials remain
    for first in range(0, len(spectra), _COLUMNS):
        percussive = _median_of_bins(magnitude[first : first + _COLUMNS])  # along frequency: clicks remain
        for begin in range(0, len(percussive), _ROWS):
            rows = slice(first + begin, first + min(begin + _ROWS, len(percussive)))
            # librosa multiplies the magnitude by the mask, then by the phase. The order matters: a difference in the
            # last bit can change the tuning estimate, which is a histogram's mode.
            gain = _soft_mask(harmonic[rows], percussive[begin : begin + _ROWS])
            gain *= magnitude[rows]
            nonzero = np.maximum(magnitude[rows], _SMALLEST)
            for part in (spectra.real[rows], spectra.imag[rows]):
                np.divide(part, nonzero, out=part)
                np.multiply(part, gain, out=part)
    return spectra


def _median_of_bins(magnitude: FloatArray) -> FloatArray:
    """Centred running median along frequency, edges mirrored; `(t, F)` → `(t, F)`."""
    rows = np.zeros((rows_needed(N_BINS), len(magnitude)), dtype=np.float32)
    rows[_HALF : _HALF + N_BINS] = magnitude.T
    rows[:_HALF] = rows[2 * _HALF - 1 : _HALF - 1 : -1]
    rows[_HALF + N_BINS : 2 * _HALF + N_BINS] = rows[_HALF + N_BINS - 1 : N_BINS - 1 : -1]
    return np.ascontiguousarray(running_median(rows, N_BINS).T)


def _soft_mask(part: FloatArray, other: FloatArray) -> FloatArray:
    """part² / (part² + other²), both scaled by the larger one; 0.5 where both are below the smallest normal float32."""
    larger = np.maximum(part, other)
    zero = larger < _TINY
    has_zeros = bool(zero.any())
    if has_zeros:
        larger[zero] = 1
    mask: FloatArray = np.square(part / larger)
    both = mask + np.square(other / larger)
    if has_zeros:
        mask[zero], both[zero] = 1, 2
    return np.divide(mask, both, out=mask)
