"""Tuning estimate and chroma of the constant-Q transform (Schörkhuber & Klapuri, SMC 2010), as in librosa 0.11.

Own code: librosa rebuilds its filters for each call and octave, and interpolates every bin to find peaks.
Shapes: S samples, T frames, n samples per frame, F = 1 + n // 2 frequency bins, P peaks, 84 notes of seven octaves.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import scipy  # imports its modules at their first use, for text alone never
import soxr

from model.features.audio import SAMPLE_RATE
from model.features.audio.dsp.stft import (
    HOP_LENGTH,
    N_BINS,
    N_FFT,
    centred_frames,
    frame_count,
    periodic_hann,
    spectrum,
)
from model.types import ComplexArray, DoubleArray, FloatArray

BINS_PER_OCTAVE: Final = 12  # librosa's default for chroma_cqt is 36
N_CHROMA: Final = 12
N_OCTAVES: Final = 7  # librosa's default
C1: Final = 440.0 * 2.0 ** ((24 - 69) / 12)  # Hz, the lowest note
SPARSITY: Final = 0.01  # share of a filter's sum of magnitudes that is dropped, librosa's default
TUNINGS: Final = 100  # possible values of the tuning estimate
_NOTES: Final = N_OCTAVES * BINS_PER_OCTAVE
_FOLD: Final = np.tile(np.eye(N_CHROMA, dtype=np.float32), N_OCTAVES)  # (12, 84): sums the octaves of each pitch class
_BLOCK_FRAMES: Final = 4096  # frames transformed at once

# Peaks of the tuning estimate: the default arguments of `librosa.estimate_tuning`.
MIN_HERTZ: Final = 150.0  # lowest frequency of a peak
MAX_HERTZ: Final = 4000.0  # highest frequency of a peak
THRESHOLD: Final = 0.1  # least magnitude of a peak, relative to the frame's maximum
_REFERENCE: Final = 440.0 / 16  # Hz, an A
_EDGES: Final = np.linspace(-0.5, 0.5, 101)  # of the histogram's bins, in semitones
_HERTZ: Final = np.arange(N_BINS) * (SAMPLE_RATE / N_FFT)
_FIRST: Final = int(np.searchsorted(_HERTZ, MIN_HERTZ))  # frequency bin
_LAST: Final = int(np.searchsorted(_HERTZ, MAX_HERTZ))  # frequency bin, exclusive
_PEAK_FRAMES: Final = 64  # frames processed at once, so that arrays fit in the L2 cache


@dataclass(frozen=True, slots=True)
class Filters:
    """Filters of one tuning.

    Args:
        length: n.
        bins: the frequency bins in which a filter is not zero, B of F.
        octaves: sparse `(12, B)` complex64 filters in the frequency domain, highest octave first.
        scale: `(84,)` filter lengths in samples at the full rate, lowest note first.
    """

    length: int
    bins: slice
    octaves: tuple[Any, ...]
    scale: DoubleArray


def chroma(waveform: FloatArray, tuning: float) -> FloatArray:
    """Chroma of a waveform.

    Args:
        waveform: `(S,)` at `SAMPLE_RATE`.
        tuning: in semitones, from -0.5 to 0.5.

    Returns:
        `(T, 12)`, C first; each frame's maximum is 1, a silent frame is 0.
    """
    notes = constant_q(waveform, tuning)
    folded = np.dot(_FOLD, notes.T)  # (12, T)
    largest = folded.max(axis=0)
    largest[largest < np.finfo(np.float32).tiny] = 1
    return np.ascontiguousarray((folded / largest).T)


def constant_q(waveform: FloatArray, tuning: float) -> FloatArray:
    """Return the magnitudes of the constant-Q transform, `(T, 84)`, C1 first."""
    filters = plan(tuning)
    frames = frame_count(waveform.size)
    response = np.empty((frames, _NOTES), dtype=np.complex64)
    for octave, kernel in enumerate(filters.octaves):
        if octave:
            waveform = _halve(waveform)
        notes = slice(_NOTES - (octave + 1) * BINS_PER_OCTAVE, _NOTES - octave * BINS_PER_OCTAVE)
        pieces = centred_frames(waveform, filters.length, HOP_LENGTH >> octave)[:frames]
        for first in range(0, frames, _BLOCK_FRAMES):
            spectra = scipy.fft.rfft(pieces[first : first + _BLOCK_FRAMES], axis=1)[:, filters.bins]
            spectra = spectra.astype(np.complex64)
            response[first : first + _BLOCK_FRAMES, notes] = kernel.dot(spectra.T).T
    response /= np.sqrt(filters.scale)
    return np.abs(response)


@lru_cache(maxsize=TUNINGS)
def plan(tuning: float) -> Filters:
    """Return the filters of a tuning, cached."""
    octaves, notes = 2.0 ** np.arange(N_OCTAVES), 2.0 ** (np.arange(BINS_PER_OCTAVE) / BINS_PER_OCTAVE)
    hertz = np.multiply.outer(octaves, notes).reshape(-1) * (C1 * 2.0 ** (tuning / BINS_PER_OCTAVE))
    # Bandwidth of each note relative to its frequency, from its neighbours as in `librosa.cqt`.
    logarithms = np.pad(np.log2(hertz), 1, mode="reflect", reflect_type="odd")
    ratios = 2.0 ** (2 / (2 / (logarithms[2:] - logarithms[:-2])))
    periods = 1.0 / ((ratios - 1) / (ratios + 1))  # of the note within its filter
    lengths = periods * SAMPLE_RATE / hertz
    highest = slice(-BINS_PER_OCTAVE, None)
    size = int(2.0 ** np.ceil(np.log2(lengths[highest].max())))
    basis = np.array([_wavelet(*note, size) for note in zip(hertz[highest], lengths[highest], strict=True)])
    basis *= lengths[highest, None] / size
    spectra = _drop_smallest(scipy.fft.fft(basis, axis=1)[:, : size // 2 + 1])
    used = np.flatnonzero(spectra.any(axis=0))
    bins = slice(int(used[0]), int(used[-1]) + 1)
    kernel = scipy.sparse.csr_matrix(spectra[:, bins])
    # The filters compensate for the energy lost by halving the rate.
    return Filters(size, bins, tuple((kernel * np.sqrt(octave)).astype(np.complex64) for octave in octaves), lengths)


def _wavelet(hertz: float, length: float, size: int) -> ComplexArray:
    """A Hann-windowed complex tone of `length` samples with magnitude sum 1, centred in `(size,)`."""
    angles = np.arange(-length // 2, length // 2) * 2 * np.pi * hertz / SAMPLE_RATE
    tone = (np.cos(angles) + 1j * np.sin(angles)) * periodic_hann(angles.size)
    before = (size - tone.size) // 2
    centred = np.zeros(size, dtype=np.complex64)
    centred[before : before + tone.size] = tone / np.abs(tone).sum()
    return centred


def _drop_smallest(spectra: ComplexArray) -> ComplexArray:
    """Set each filter's smallest values, up to `SPARSITY` of its sum of magnitudes, to zero."""
    magnitude = np.abs(spectra)
    rising = np.sort(magnitude, axis=1)
    share = np.cumsum(rising / magnitude.sum(axis=1, keepdims=True), axis=1)
    least = np.take_along_axis(rising, np.argmin(share < SPARSITY, axis=1)[:, None], axis=1)
    return np.where(magnitude >= least, spectra, np.complex64(0))


def _halve(waveform: FloatArray) -> FloatArray:
    """Resample to half the rate; `(ceil(S / 2),)`."""
    size = -(-waveform.size // 2)
    halved: FloatArray = np.asarray(soxr.resample(waveform, 2, 1, "soxr_hq"))[:size]
    if halved.size < size:
        halved = np.pad(halved, (0, size - halved.size))
    halved /= np.sqrt(0.5)  # as librosa, to preserve the energy
    return halved


def estimate_tuning(waveform: FloatArray) -> float:
    """Estimate the deviation of a `(S,)` waveform from concert pitch, equal to `librosa.estimate_tuning`.

    Bit-equal, because the estimate is a histogram's mode: a peak that crosses the edge of a bin may change it.

    Returns:
        One of -0.50, -0.49, … 0.49 semitones; 0 if there is no peak.
    """
    frames = centred_frames(waveform, N_FFT, HOP_LENGTH)
    peaks = [
        _peaks(np.abs(spectrum(frames[first : first + _PEAK_FRAMES]))) for first in range(0, len(frames), _PEAK_FRAMES)
    ]
    hertz, magnitude = (np.concatenate(parts) for parts in zip(*peaks, strict=True))
    if not hertz.size:
        return 0.0
    middle = [(magnitude.size - 1) // 2, magnitude.size // 2]
    median = np.partition(magnitude, middle)[middle].mean()
    semitones = 12 * np.log2(hertz[magnitude >= median] / _REFERENCE)
    offsets = semitones - np.floor(semitones)
    offsets[offsets >= 0.5] -= 1.0
    counts, edges = np.histogram(offsets, _EDGES)
    return float(edges[np.argmax(counts)])


def _peaks(magnitude: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Frequencies in Hz and magnitudes of the peaks in `(T, F)`; `(P,)` each."""
    floor = THRESHOLD * magnitude.max(axis=1, keepdims=True)
    band = np.ascontiguousarray(magnitude[:, _FIRST - 1 : _LAST + 1])  # one more bin on either side, to compare with
    above = (band * (band > floor)).reshape(-1)
    place = 1 + np.flatnonzero((above[1:-1] > above[:-2]) & (above[1:-1] >= above[2:]))
    index = place % band.shape[1]
    inside = (index > 0) & (index < band.shape[1] - 1)
    place, index = place[inside], index[inside]
    before, at, after = (band.reshape(-1)[place + offset] for offset in (-1, 0, 1))
    # Offset of the parabola's vertex from the bin's centre, in the precisions of librosa's compiled code.
    curvature = (before + after).astype(np.float64) - 2.0 * at.astype(np.float64)
    slope = (after - before).astype(np.float64) / 2.0
    flat = np.abs(slope) >= np.abs(curvature)  # the vertex is more than one bin away
    shift = np.where(flat, 0.0, -slope / np.where(flat, 1.0, curvature)).astype(np.float32)
    hertz = ((index + (_FIRST - 1) + shift) * float(SAMPLE_RATE) / N_FFT).astype(np.float32)
    rise = np.float32(0.5) * ((after - before) / np.float32(2.0)) * shift
    return hertz, at + rise
