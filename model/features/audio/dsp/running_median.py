"""Exact running median of 31 values along the rows of an array, for the harmonic separation in `hpss`.

Separable sorting networks (Adams, SIGGRAPH 2021) in one dimension with Batcher's bitonic merges (AFIPS 1968).
Own code: SciPy's `median_filter` gives the same values, many times slower. Shapes: n windows, C columns, m values.
"""

from typing import Final

import numpy as np

from model.types import FloatArray

# Sixteen neighbouring windows share sixteen values, which are sorted once. The group of windows is then halved
# repeatedly; each half merges the values it has in addition. When k of a window's 31 values are sorted, only 32 - k can
# still be the median, so the others are dropped. This takes about 30 minima and maxima per value, on whole rows.
WINDOW: Final = 31  # values; the algorithm below is specific to this length
BLOCK: Final = 16  # windows that share a sorted core
_CHUNK: Final = 3072  # columns times blocks processed at once: about 40 arrays of this size fit in the L2 cache


def rows_needed(windows: int) -> int:
    """Return how many rows `running_median` reads; those from `windows + WINDOW - 1` on are padding."""
    return _blocks(windows) * BLOCK + WINDOW


def running_median(rows: FloatArray, windows: int) -> FloatArray:
    """Median of rows i to i + 30 of each column, for every i below `windows`.

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

    Sorted run k of length m starts at row m * k + m - 1. The values that a group of windows adds on its left and right
    are then whole runs, so every run is sorted once.
    """
    columns = rows.shape[1]
    pairs = rows[1 : 16 * blocks + 29].reshape(8 * blocks + 14, 2, columns)
    twos = _sorted_pairs(pairs)
    fours = _merge(twos[1:-1:2], twos[2::2])  # 4 * blocks + 6
    eights = _merge(fours[1:-1:2], fours[2::2])  # 2 * blocks + 2
    cores = _merge(eights[1:-1:2], eights[2::2])  # blocks
    singles = rows[:, None, :]
    # Candidates left after each halving: 8, 4, 2 and 1, for groups of 8, 4, 2 and 1 windows.
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
