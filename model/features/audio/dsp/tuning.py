"""How far a recording is tuned from concert pitch, in hundredths of a semitone.

For: the constant-Q transform, whose filters are laid on the notes that were played.
Does not know: the transform itself.
Source: `librosa.estimate_tuning` 0.11 with its default arguments, equal to the last bit of every peak: the estimate is
the mode of a histogram, and a single peak that crosses a bin's edge may move it. Peaks are sought only where librosa
keeps them, and interpolated only where they are.

Shapes: S samples, T frames, F frequency bins, P peaks.
"""

from typing import Final

import numpy as np

from model.features.audio.dsp.stft import HOP_LENGTH, N_BINS, N_FFT, SAMPLE_RATE, centred_frames, spectrum
from model.types import FloatArray

LOWEST: Final = 150.0  # Hz; a pitch's partials are sought from here on
HIGHEST: Final = 4000.0  # Hz; up to here
THRESHOLD: Final = 0.1  # of a frame's largest magnitude: what is smaller is no peak
_REFERENCE: Final = 440.0 / 16  # Hz: an A
_EDGES: Final = np.linspace(-0.5, 0.5, 101)  # semitones
_HERTZ: Final = np.arange(N_BINS) * (SAMPLE_RATE / N_FFT)
_FIRST: Final = int(np.searchsorted(_HERTZ, LOWEST))  # bin
_LAST: Final = int(np.searchsorted(_HERTZ, HIGHEST))  # bin, the first one left out
_ROWS: Final = 64  # frames worked on at once, so that arrays stay within a core's cache


def estimate_tuning(waveform: FloatArray) -> float:
    """Estimate the tuning of a `(S,)` waveform.

    Returns:
        One of -0.50, -0.49, … 0.49 semitones; 0 where nothing has a pitch.
    """
    frames = centred_frames(waveform, N_FFT, HOP_LENGTH)
    found = [_peaks(np.abs(spectrum(frames[first : first + _ROWS]))) for first in range(0, len(frames), _ROWS)]
    hertz = np.concatenate([pitch for pitch, _ in found])
    magnitude = np.concatenate([size for _, size in found])
    if not hertz.size:
        return 0.0
    loud = magnitude >= np.median(magnitude)
    return _mode(hertz[loud])


def _mode(hertz: FloatArray) -> float:
    """How far most of the frequencies are from the nearest semitone."""
    semitones = 12 * np.log2(hertz / _REFERENCE)
    offsets = np.mod(semitones, 1.0)
    offsets[offsets >= 0.5] -= 1.0
    counts, edges = np.histogram(offsets, _EDGES)
    return float(edges[np.argmax(counts)])


def _peaks(magnitude: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Frequencies and magnitudes of the partials in `(T, F)`; `(P,)` each."""
    floor = THRESHOLD * magnitude.max(axis=1, keepdims=True)
    # One bin more on either side, which a peak is compared with; what is below the floor counts as nothing.
    near = magnitude[:, _FIRST - 1 : _LAST + 1]
    heard = near * (near > floor)
    middle = heard[:, 1:-1]
    frame, place = np.nonzero((middle > heard[:, :-2]) & (middle >= heard[:, 2:]))
    before, at, after = near[frame, place], near[frame, place + 1], near[frame, place + 2]
    # Shift of the parabola's top from the bin's centre, in the precisions that librosa's compiled code has.
    curvature = (before + after).astype(np.float64) - 2.0 * at.astype(np.float64)
    slope = (after - before).astype(np.float64) / 2.0
    flat = np.abs(slope) >= np.abs(curvature)  # the top is more than a bin away
    shift = np.where(flat, 0.0, -slope / np.where(flat, 1.0, curvature)).astype(np.float32)
    hertz = ((place + _FIRST + shift) * float(SAMPLE_RATE) / N_FFT).astype(np.float32)
    rise = np.float32(0.5) * ((after - before) / np.float32(2.0)) * shift
    return hertz, at + rise
