"""A running median of 31, exact, along the rows of an array: every column is a series of its own.

For: harmonic separation, which takes two such medians of every spectrogram (`model.features.audio.dsp.hpss`).
Does not know: sound, spectra, how edges are continued.
Source: neighbouring windows share most of their values, so the shared ones are sorted once (separable sorting networks:
Adams, "Fast Median Filters using Separable Sorting Networks", SIGGRAPH 2021), here in one dimension, by Batcher's
bitonic merges (AFIPS 1968). Sixteen windows in a row share sixteen values; those are sorted, then the sixteen windows
are halved again and again, each half merging the values it has beside the shared ones. Of a window of 31, of which k
are sorted, only 32 - k can still be the median: the rest is dropped on the way. It comes to some 30 minima and maxima a
value, each on whole rows at once, and as a minimum copies one of its operands, the median is the value itself.

Shapes: n windows, C columns, m values.
"""

from typing import Final

import numpy as np

from model.types import FloatArray

WINDOW: Final = 31  # values; the scheme below is for this one
BLOCK: Final = 16  # windows that share a sorted core
_CHUNK: Final = 3072  # columns times blocks worked on at once: some 40 arrays of this size stay within a core's cache


def rows_needed(windows: int) -> int:
    """Return how many rows `running_median` reads for so many windows; past `windows + WINDOW - 1` they are padding."""
    return _blocks(windows) * BLOCK + WINDOW


def running_median(rows: FloatArray, windows: int) -> FloatArray:
    """Median of rows i to i + 30, for every i below `windows`, of each column apart.

    Args:
        rows: `(rows_needed(windows), C)`; what stands in the padding is read, but has no effect. No NaN.
        windows: n.

    Returns:
        `(n, C)`, every value one of those in its window.

    Raises:
        ValueError: `rows` are too few.
    """
    if rows.shape[0] < rows_needed(windows):
        raise ValueError(f"{windows} windows need {rows_needed(windows)} rows, got {rows.shape[0]}")
    columns = rows.shape[1]
    out = np.empty((_blocks(windows) * BLOCK, columns), dtype=rows.dtype)
    step = max(1, _CHUNK // max(1, columns))
    for first in range(0, _blocks(windows), step):
        blocks = min(step, _blocks(windows) - first)
        start, stop = first * BLOCK, (first + blocks) * BLOCK
        out[start:stop] = _medians(rows[start : stop + WINDOW], blocks)
    return out[:windows]


def _blocks(windows: int) -> int:
    return -(-windows // BLOCK)


def _medians(rows: FloatArray, blocks: int) -> FloatArray:
    """`(16 * blocks + 31, C)` rows → `(16 * blocks, C)`.

    Sorted runs are numbered so that run k of length m holds rows m * k + m - 1 and on. With that, the values that the
    window blocks add on their left and right are again whole runs, and every run is sorted once.
    """
    columns = rows.shape[1]
    pairs = rows[1 : 16 * blocks + 29].reshape(8 * blocks + 14, 2, columns)
    twos = _sorted_pairs(pairs)
    fours = _merge(twos[1:-1:2], twos[2::2])  # 4 * blocks + 6
    eights = _merge(fours[1:-1:2], fours[2::2])  # 2 * blocks + 2
    cores = _merge(eights[1:-1:2], eights[2::2])  # blocks
    singles = rows[:, None, :]
    # What is left of the candidates after each halving: 8, 4, 2 and 1, the windows they serve 8, 4, 2 and 1.
    left = _narrow(cores, eights[0 : 2 * blocks : 2], eights[3 : 2 * blocks + 3 : 2])
    left = _narrow(left, fours[0 : 4 * blocks : 2], fours[7 : 4 * blocks + 7 : 2])
    left = _narrow(left, twos[0 : 8 * blocks : 2], twos[15 : 8 * blocks + 15 : 2])
    return _narrow(left, singles[0 : 16 * blocks : 2], singles[31 : 16 * blocks + 31 : 2]).reshape(-1, columns)


def _sorted_pairs(pairs: FloatArray) -> FloatArray:
    out = np.empty_like(pairs)
    np.minimum(pairs[:, 0], pairs[:, 1], out=out[:, 0])
    np.maximum(pairs[:, 0], pairs[:, 1], out=out[:, 1])
    return out


def _merge(lower: FloatArray, upper: FloatArray) -> FloatArray:
    """Two stacks of sorted runs, `(n, m, C)` each → one of runs twice as long, `(n, 2m, C)`."""
    count, length, columns = lower.shape
    out = np.empty((count, 2, length, columns), dtype=lower.dtype)
    falling = upper[:, ::-1]
    np.minimum(lower, falling, out=out[:, 0])
    np.maximum(lower, falling, out=out[:, 1])
    return _sort_bitonic(out.reshape(2 * count, length, columns)).reshape(count, 2 * length, columns)


def _narrow(candidates: FloatArray, before: FloatArray, after: FloatArray) -> FloatArray:
    """Give each run of candidates' two halves of windows their own further values, and keep the middle of each.

    Args:
        candidates: `(n, 2m, C)` sorted.
        before: `(n, m, C)` sorted: what the earlier windows of each run have beside the shared values.
        after: `(n, m, C)` sorted: what the later ones have.

    Returns:
        `(2n, m, C)` sorted: ranks m + 1 to 2m of the 3m values, for the earlier and the later windows in turn.
    """
    count, doubled, columns = candidates.shape
    middle = doubled // 2
    out = np.empty((count, 2, middle, columns), dtype=candidates.dtype)
    for half, further in enumerate((before, after)):
        # The 2m smallest are the lower candidates and these minima; of those, the m largest are these maxima.
        np.minimum(candidates[:, middle:], further[:, ::-1], out=out[:, half])
        np.maximum(candidates[:, :middle], out[:, half], out=out[:, half])
    return _sort_bitonic(out.reshape(2 * count, middle, columns))


def _sort_bitonic(runs: FloatArray) -> FloatArray:
    """Sort `(n, m, C)` runs that rise and then fall, or the reverse; m a power of two. May overwrite its argument."""
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
