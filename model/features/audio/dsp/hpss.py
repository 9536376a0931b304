"""Harmonic part of a waveform (Fitzgerald, DAFx 2010; Driedger), bit-equal to `librosa.effects.harmonic` 0.11.

Own code: SciPy's `median_filter`, which librosa uses, takes most of the time; `running_median` is many times faster.
Shapes: S samples, T frames of the clip, t of a block, F frequency bins; n windows, C columns, m values of a median.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from model.features.audio.dsp.stft import HOP_LENGTH, N_BINS, N_FFT, centred_frames, spectrum
from model.types import ComplexArray, FloatArray

# Running median: separable sorting networks (Adams, SIGGRAPH 2021) in one dimension with Batcher's bitonic merges
# (AFIPS 1968). Sixteen neighbouring windows share sixteen values, which are sorted once. The group of windows is then
# halved repeatedly; each half merges the values it has in addition. When k of a window's 31 values are sorted, only
# 32 - k can still be the median, so the others are dropped: about 30 minima and maxima per value, on whole rows.
WINDOW: Final = 31  # values; the algorithm below is specific to this length
GROUP: Final = 16  # windows that share a sorted core
_CHUNK: Final = 3072  # columns times groups processed at once: about 40 arrays of this size fit in the L2 cache

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
    mirrored = np.pad(np.arange(N_BINS), (_HALF, rows_needed(N_BINS) - N_BINS - _HALF), mode="symmetric")
    return np.ascontiguousarray(running_median(magnitude.T.take(mirrored, axis=0), N_BINS).T)


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


def rows_needed(windows: int) -> int:
    """Return how many rows `running_median` reads; those from `windows + WINDOW - 1` on are padding."""
    return _groups(windows) * GROUP + WINDOW


def running_median(rows: FloatArray, windows: int) -> FloatArray:
    """Exact median of rows i to i + 30 of each column, for every i below `windows`.

    Args:
        rows: `(rows_needed(windows), C)` without NaN; the padding is read but has no effect.
        windows: n.

    Returns:
        `(n, C)`; every value is one of its window.

    Raises:
        ValueError: too few rows.
    """
    if rows.shape[0] < rows_needed(windows):
        raise ValueError(f"{windows} windows need {rows_needed(windows)} rows, got {rows.shape[0]}")
    columns = rows.shape[1]
    out = np.empty((_groups(windows) * GROUP, columns), dtype=rows.dtype)
    step = max(1, _CHUNK // max(1, columns))
    for first in range(0, _groups(windows), step):
        groups = min(step, _groups(windows) - first)
        start, stop = first * GROUP, (first + groups) * GROUP
        out[start:stop] = _medians(rows[start : stop + WINDOW], groups)
    return out[:windows]


def _groups(windows: int) -> int:
    return -(-windows // GROUP)


def _medians(rows: FloatArray, groups: int) -> FloatArray:
    """`(16 * groups + 31, C)` rows → `(16 * groups, C)`.

    Sorted run k of length m starts at row m * k + m - 1. The values that a group of windows adds on its left and right
    are then whole runs, so every run is sorted once.
    """
    columns = rows.shape[1]
    pairs = rows[1 : 16 * groups + 29].reshape(8 * groups + 14, 2, columns)
    twos = _sort_bitonic(pairs)
    fours = _merge(twos[1:-1:2], twos[2::2])  # 4 * groups + 6
    eights = _merge(fours[1:-1:2], fours[2::2])  # 2 * groups + 2
    cores = _merge(eights[1:-1:2], eights[2::2])  # groups
    singles = rows[:, None, :]
    # Candidates left after each halving: 8, 4, 2 and 1, for groups of 8, 4, 2 and 1 windows.
    left = _narrow(cores, eights[0 : 2 * groups : 2], eights[3 : 2 * groups + 3 : 2])
    left = _narrow(left, fours[0 : 4 * groups : 2], fours[7 : 4 * groups + 7 : 2])
    left = _narrow(left, twos[0 : 8 * groups : 2], twos[15 : 8 * groups + 15 : 2])
    return _narrow(left, singles[0 : 16 * groups : 2], singles[31 : 16 * groups + 31 : 2]).reshape(-1, columns)


def _merge(lower: FloatArray, upper: FloatArray) -> FloatArray:
    """Merge two stacks of sorted runs, `(n, m, C)` each → `(n, 2m, C)`."""
    count, length, columns = lower.shape
    out = np.empty((count, 2, length, columns), dtype=lower.dtype)
    falling = upper[:, ::-1]
    np.minimum(lower, falling, out=out[:, 0])
    np.maximum(lower, falling, out=out[:, 1])
    return _sort_bitonic(out.reshape(2 * count, length, columns)).reshape(count, 2 * length, columns)


def _narrow(candidates: FloatArray, before: FloatArray, after: FloatArray) -> FloatArray:
    """Halve each group of windows: add each half's further values and keep the middle candidates.

    Args:
        candidates: `(n, 2m, C)` sorted.
        before: `(n, m, C)` sorted; the further values of the earlier half of each group.
        after: `(n, m, C)` sorted; those of the later half.

    Returns:
        `(2n, m, C)` sorted: ranks m + 1 to 2m of the 3m values, for the earlier and the later half alternately.
    """
    count, doubled, columns = candidates.shape
    middle = doubled // 2
    out = np.empty((count, 2, middle, columns), dtype=candidates.dtype)
    for half, further in enumerate((before, after)):
        # The 2m smallest values are the lower candidates and these minima; the m largest of them are these maxima.
        np.minimum(candidates[:, middle:], further[:, ::-1], out=out[:, half])
        np.maximum(candidates[:, :middle], out[:, half], out=out[:, half])
    return _sort_bitonic(out.reshape(2 * count, middle, columns))


def _sort_bitonic(runs: FloatArray) -> FloatArray:
    """Sort bitonic `(n, m, C)` runs, m a power of two. May overwrite its argument."""
    count, length, columns = runs.shape
    other = np.empty_like(runs)
    distance = length // 2
    while distance:
        shape = (count, length // (2 * distance), 2, distance, columns)
        source, target = runs.reshape(shape), other.reshape(shape)
        np.minimum(source[:, :, 0], source[:, :, 1], out=target[:, :, 0])
        np.maximum(source[:, :, 0], source[:, :, 1], out=target[:, :, 1])
        runs, other = other, runs
        distance //= 2
    return runs
