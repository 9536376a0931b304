"""Harmonic part of a waveform (Fitzgerald, DAFx 2010; Driedger), bit-equal to `librosa.effects.harmonic` 0.11.

Own code: SciPy's `median_filter`, which librosa uses, takes most of the time; `running_median` is many times faster.
Shapes: S samples, T frames of the clip, t of a block, F frequency bins; n windows, C columns, m ranks of a run.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from model.features.audio.dsp.stft import HOP_LENGTH, N_BINS, N_FFT, centred_frames, spectrum
from model.types import ComplexArray, FloatArray

# Running median: separable sorting networks (Adams, SIGGRAPH 2021) in one dimension with Batcher's merges (AFIPS 1968).
# Sixteen neighbouring windows share sixteen values, which are sorted once. The group of windows is then halved
# repeatedly; each half merges the values it has in addition. When k of a window's 31 values are sorted, only 32 - k can
# still be the median, so the others are dropped: 22 minima and maxima per value. Each rank of a run is one array of all
# groups, so that every comparison is of two contiguous arrays.
WINDOW: Final = 31  # values; the algorithm below is specific to this length
GROUP: Final = 16  # windows that share a sorted core
_CHUNK: Final = 4096  # values of a rank: fewer cost more calls, more leave the cache and cause page faults

BLOCK_FRAMES: Final = 512  # frames processed at once: 16 s
_HALF: Final = WINDOW // 2  # frames or bins on either side of a median's centre
_ROWS: Final = 32  # frames masked at once, so that arrays fit in the L2 cache
_Run = list[FloatArray]  # sorted: one array a rank
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
        context = np.empty((rows_needed(count), N_BINS), dtype=np.float32)
        context[count + 2 * _HALF :] = 0
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
    percussive = _median_of_bins(magnitude)  # along frequency: clicks remain
    for first in range(0, len(spectra), _ROWS):
        rows = slice(first, first + _ROWS)
        # librosa multiplies the magnitude by the mask, then by the phase. The order matters: a difference in the
        # last bit can change the tuning estimate, which is a histogram's mode.
        gain = _soft_mask(harmonic[rows], percussive[rows])
        gain *= magnitude[rows]
        nonzero = np.maximum(magnitude[rows], _SMALLEST)
        for part in (spectra.real[rows], spectra.imag[rows]):
            contiguous = np.divide(part, nonzero)
            part[...] = np.multiply(contiguous, gain, out=contiguous)
    return spectra


def _median_of_bins(magnitude: FloatArray) -> FloatArray:
    """Centred running median along frequency, edges mirrored; `(t, F)` → `(t, F)`."""
    groups = _groups(N_BINS)
    width = groups + 2  # with those whose values the last windows read
    out = np.empty((len(magnitude), groups, GROUP), dtype=magnitude.dtype)
    for chunk in _chunks(len(magnitude), width):
        part = magnitude[chunk]
        padded = np.zeros((len(part), width * GROUP), dtype=magnitude.dtype)
        padded[:, _HALF : _HALF + N_BINS] = part
        padded[:, :_HALF] = part[:, _HALF - 1 :: -1]
        padded[:, _HALF + N_BINS : N_BINS + 2 * _HALF] = part[:, : -_HALF - 1 : -1]
        # Frames lie end to end: what the last two groups of a frame would read in the next frame is not used.
        columns = padded.reshape(-1, width, GROUP).transpose(2, 0, 1).reshape(GROUP, -1)
        medians = np.empty_like(columns)
        _medians(list(columns), list(medians[:, :-2]))
        out[chunk] = medians.reshape(GROUP, -1, width)[:, :, :groups].transpose(1, 2, 0)
    return out.reshape(len(magnitude), -1)[:, :N_BINS]


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
    groups, columns = _groups(windows), rows.shape[1]
    out = np.empty((groups, GROUP, columns), dtype=rows.dtype)
    for chunk in _chunks(columns, groups):
        part = rows[: groups * GROUP + WINDOW, chunk]
        _medians([part[row::GROUP] for row in range(GROUP)], list(out[:, :, chunk].swapaxes(0, 1)))
    return out.reshape(-1, columns)[:windows]


def _groups(windows: int) -> int:
    return -(-windows // GROUP)


def _chunks(columns: int, groups: int) -> list[slice]:
    """Split columns evenly, so that a chunk has about `_CHUNK` values of `groups` groups each."""
    step = -(-columns // max(1, round(columns * groups / _CHUNK)))
    return [slice(first, first + step) for first in range(0, columns, step)]


def _medians(rows: Sequence[FloatArray], out: Sequence[FloatArray]) -> None:
    """Write the medians of n groups of `GROUP` windows.

    A run is a list of its ranks, each an array that has the groups along its first dimension. Sorted run k of length m
    starts at row m * k + m - 1. The values that a group of windows adds on its left and right are then whole runs, so
    every run is sorted once.

    Args:
        rows: row i of every group, for i below `GROUP`: `(n + 2, …)`, the last one `(n + 1, …)` or more.
        out: receives the median of window i of every group: `(n, …)`.
    """
    groups = len(out[0])
    levels = [[[row] for row in rows]]  # runs of 1, 2, 4 and 8 of a group
    for _ in range(3):
        levels.append(_longer_runs(levels[-1]))
    upper, lower = levels[-1]
    core = _merge([rank[:groups] for rank in lower], [rank[1 : groups + 1] for rank in upper])
    _halve(core, levels, out, 0)


def _halve(candidates: _Run, levels: Sequence[Sequence[_Run]], out: Sequence[FloatArray], first: int) -> None:
    """Write the medians of the windows from `first` on, as many as there are candidates, one half after the other."""
    length = len(candidates) // 2
    runs, groups = levels[length.bit_length() - 1], len(out[0])
    for start, row in ((first, first + length - 1), (first + length, first + WINDOW)):  # row: of the further values
        after, index = divmod(row // length, len(runs))
        further = [rank[after : after + groups] for rank in runs[index]]
        if length > 1:
            _halve(_narrow(candidates, further), levels, out, start)
        else:
            np.maximum(candidates[0], np.minimum(candidates[1], further[0]), out=out[start])


def _longer_runs(runs: Sequence[_Run]) -> list[_Run]:
    """Merge run 1 of a group with run 2, 3 with 4 and so on, the last one with run 0 of the next group."""
    last = [rank[1:] for rank in runs[0]]
    shared = len(last[0])
    pairs = [*zip(runs[1:-1:2], runs[2::2], strict=True), ([rank[:shared] for rank in runs[-1]], last)]
    return [_merge(lower, upper) for lower, upper in pairs]


def _merge(lower: _Run, upper: _Run) -> _Run:
    """Merge two sorted runs of m ranks to one of 2m (odd-even merge)."""
    if len(lower) == 1:
        return [np.minimum(lower[0], upper[0]), np.maximum(lower[0], upper[0])]
    even, odd = _merge(lower[::2], upper[::2]), _merge(lower[1::2], upper[1::2])
    merged = [even[0]]
    for low, high in zip(odd[:-1], even[1:], strict=True):
        merged += [np.minimum(low, high), np.maximum(low, high)]
    return [*merged, odd[-1]]


def _narrow(candidates: _Run, further: _Run) -> _Run:
    """Merge 2m sorted candidates with m further sorted values and keep the middle m: ranks m + 1 to 2m of the 3m."""
    middle = len(further)
    lower, upper = candidates[:middle], candidates[middle:]
    # The 2m smallest values are the lower candidates and these minima; the m largest of them are these maxima.
    smallest = map(np.minimum, upper, reversed(further))
    return _sort_bitonic(list(map(np.maximum, lower, smallest)))


def _sort_bitonic(run: _Run) -> _Run:
    """Sort a bitonic run of m values, m a power of two."""
    half = len(run) // 2
    if not half:
        return run
    lower, upper = run[:half], run[half:]
    return [
        *_sort_bitonic(list(map(np.minimum, lower, upper))),
        *_sort_bitonic(list(map(np.maximum, lower, upper))),
    ]
