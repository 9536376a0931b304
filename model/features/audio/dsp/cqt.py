"""Constant-Q transform of a waveform and its chroma: how much of each of the twelve notes sounds.

For: the last twelve of the acoustic features.
Does not know: harmonic separation, how the tuning is estimated.
Source: `librosa.chroma_cqt` 0.11 over `librosa.cqt`, that is Schörkhuber & Klapuri (SMC 2010): filters of one octave,
applied to the waveform and to what is left of it after halving its rate again and again. librosa builds its filters
anew with every call, for each octave. They depend on the tuning alone, which has a hundred values, and are the same in
every octave but for a factor: so one small set is built per tuning and kept.

Shapes: S samples, T frames, n samples a frame, F = 1 + n // 2 frequency bins, 84 notes of seven octaves.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, cast

import numpy as np
import scipy.fft
import scipy.sparse
import soxr

from model.features.audio.dsp.stft import (
    HOP_LENGTH,
    SAMPLE_RATE,
    centred_frames,
    frame_count,
    periodic_hann,
)
from model.types import ComplexArray, DoubleArray, FloatArray

BINS_PER_OCTAVE: Final = 12  # pinned: librosa's default for chroma_cqt is 36
N_CHROMA: Final = 12
N_OCTAVES: Final = 7  # librosa's default
C1: Final = 440.0 * 2.0 ** ((24 - 69) / 12)  # Hz, the lowest note
SPARSITY: Final = 0.01  # of a filter's sum of magnitudes is left out, librosa's default
TUNINGS: Final = 100  # values that an estimate can take
_NOTES: Final = N_OCTAVES * BINS_PER_OCTAVE
_FOLD: Final = np.tile(np.eye(N_CHROMA, dtype=np.float32), N_OCTAVES)  # (12, 84): which note counts for which chroma
_HALVING: Final = np.sqrt(0.5)  # librosa scales by it to keep the energy
_STRETCH: Final = 4096  # frames transformed in one go


@dataclass(frozen=True, slots=True)
class Filters:
    """What a tuning needs.

    Args:
        length: n.
        octaves: sparse `(12, F)` complex64 filters in the frequency domain, from the highest octave down.
        scale: `(84,)` samples each note's filter would have at the full rate, from the lowest up.
    """

    length: int
    octaves: tuple[Any, ...]
    scale: DoubleArray


def chroma(waveform: FloatArray, tuning: float) -> FloatArray:
    """Chroma of a waveform.

    Args:
        waveform: `(S,)` at `SAMPLE_RATE`.
        tuning: in semitones, from -0.5 to 0.5.

    Returns:
        `(T, 12)`, C first; the largest of each frame is 1, and a frame without a sound all 0.
    """
    notes = constant_q(waveform, tuning)
    folded = np.dot(_FOLD, notes.T)  # (12, T)
    largest = folded.max(axis=0)
    largest[largest < np.finfo(np.float32).tiny] = 1
    return np.ascontiguousarray((folded / largest).T)


def constant_q(waveform: FloatArray, tuning: float) -> FloatArray:
    """Return the magnitudes of the constant-Q transform, `(T, 84)`, from C1 up."""
    filters = plan(tuning)
    frames = frame_count(waveform.size)
    response = np.empty((frames, _NOTES), dtype=np.complex64)
    for octave, kernel in enumerate(filters.octaves):
        if octave:
            waveform = _halve(waveform)
        notes = slice(_NOTES - (octave + 1) * BINS_PER_OCTAVE, _NOTES - octave * BINS_PER_OCTAVE)
        pieces = centred_frames(waveform, filters.length, HOP_LENGTH >> octave)[:frames]
        for first in range(0, frames, _STRETCH):
            piece = pieces[first : first + _STRETCH].astype(np.float64)  # librosa windows with ones, in double
            spectrum = scipy.fft.rfft(piece, axis=1, overwrite_x=True).astype(np.complex64)
            response[first : first + _STRETCH, notes] = kernel.dot(spectrum.T).T
    response /= np.sqrt(filters.scale)
    return np.abs(response)


@lru_cache(maxsize=TUNINGS)
def plan(tuning: float) -> Filters:
    """Build the filters of a tuning, once."""
    octaves, notes = 2.0 ** np.arange(N_OCTAVES), 2.0 ** (np.arange(BINS_PER_OCTAVE) / BINS_PER_OCTAVE)
    hertz = np.multiply.outer(octaves, notes).reshape(-1) * (C1 * 2.0 ** (tuning / BINS_PER_OCTAVE))
    periods = 1.0 / _relative_bandwidth(hertz)  # of the note, in its filter
    lengths = periods * SAMPLE_RATE / hertz
    highest = slice(-BINS_PER_OCTAVE, None)
    size = int(2.0 ** np.ceil(np.log2(lengths[highest].max())))
    basis = np.array([_wavelet(*note, size) for note in zip(hertz[highest], lengths[highest], strict=True)])
    basis *= lengths[highest, None] / size
    kernel = _sparse(scipy.fft.fft(basis, axis=1)[:, : size // 2 + 1])
    # Halving the rate takes energy; librosa gives it back to the filters.
    return Filters(size, tuple(_scaled(kernel, np.sqrt(octave)) for octave in octaves), lengths)


def _wavelet(hertz: float, length: float, size: int) -> ComplexArray:
    """A tone of `length` samples that swells and fades, its magnitudes summing up to 1, in the middle of `(size,)`."""
    angles = np.arange(-length // 2, length // 2) * 2 * np.pi * hertz / SAMPLE_RATE
    tone = (np.cos(angles) + 1j * np.sin(angles)) * periodic_hann(angles.size)
    before = (size - tone.size) // 2
    centred = np.zeros(size, dtype=np.complex64)
    centred[before : before + tone.size] = tone / np.abs(tone).sum()
    return centred


def _scaled(kernel: Any, factor: float) -> Any:
    scaled = kernel.copy()
    scaled.data *= np.float64(factor)
    return scaled


def _relative_bandwidth(hertz: DoubleArray) -> DoubleArray:
    """Width of each note relative to its frequency, from its neighbours, as `librosa.cqt` computes it; shape kept."""
    octaves = np.pad(np.log2(hertz), 1, mode="reflect", reflect_type="odd")
    per_octave = 2 / (octaves[2:] - octaves[:-2])
    ratio = 2.0 ** (2 / per_octave)
    return cast(DoubleArray, (ratio - 1) / (ratio + 1))


def _sparse(spectra: ComplexArray) -> Any:
    """Drop each filter's smallest values, as far as they sum up to `SPARSITY` of it."""
    magnitude = np.abs(spectra)
    rising = np.sort(magnitude, axis=1)
    share = np.cumsum(rising / magnitude.sum(axis=1, keepdims=True), axis=1)
    least = np.take_along_axis(rising, np.argmin(share < SPARSITY, axis=1)[:, None], axis=1)
    return scipy.sparse.csr_matrix(np.where(magnitude >= least, spectra, 0))


def _halve(waveform: FloatArray) -> FloatArray:
    """Resample to half the rate; `(ceil(S / 2),)`."""
    size = -(-waveform.size // 2)
    halved = np.asarray(soxr.resample(waveform, 2, 1, "soxr_hq"))[:size]
    if halved.size < size:
        halved = np.pad(halved, (0, size - halved.size))
    halved /= _HALVING
    return cast(FloatArray, halved)
