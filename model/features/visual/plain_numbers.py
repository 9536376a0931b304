"""Fast parsing of rows of plainly written numbers, as OpenFace writes them.

Own code: `numpy.loadtxt` and pyarrow convert every cell of a row, here 35 of 714 are needed.
Shapes: R rows, d columns, u used columns, K marks: bytes that are not digits.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from model.types import BoolArray, DoubleArray, IntArray

MAX_DIGITS: Final = 7  # on either side of the point: a whole number of fourteen digits is below 2⁵³, exact in float64
_COMMA, _POINT, _MINUS, _SPACE, _ZERO = b",.- 0"
_WORD: Final = 8  # bytes
_PREFIX: Final = b" " * (_WORD - 1) + b","  # so that a word can be read before the first mark, and a mark precedes it
_LAST_BYTES: Final = np.array([0, *(2**64 - 2 ** (64 - 8 * n) for n in range(1, _WORD + 1))], dtype=np.uint64)
_POWERS: Final = 10 ** np.arange(MAX_DIGITS + 1, dtype=np.uint64)


def parse_plain(rows: Sequence[bytes], columns: int, used: npt.NDArray[np.intp]) -> tuple[DoubleArray, list[int]]:
    """Parse rows of numbers separated by commas.

    A plain number is: spaces, a minus sign, at most seven digits, a point, at most seven digits; only the digits before
    or after the point are required. Its value equals `float`'s to the last bit: a whole number below 2⁵³ divided by a
    power of ten below 10²² is rounded once (Clinger, PLDI 1990).

    Args:
        rows: R of them, each with `columns - 1` commas and no line end.
        columns: d.
        used: `(u,)` indices of the columns to return.

    Returns:
        `(R, u)` values, and the ascending indices of the rows with a used cell that is not plain; their values are
        undefined.
    """
    text = np.frombuffer(b"".join((_PREFIX, b",".join(rows), b",")), dtype=np.uint8)
    positions = np.flatnonzero((text - np.uint8(_ZERO))[_WORD - 1 :] > 9) + (_WORD - 1)  # (K + 1,), the prefix's first
    marks = text[positions]
    digits = np.diff(positions) - 1  # (K,): between a mark and the previous one
    cell_ends = np.flatnonzero(marks[1:] == _COMMA)  # (R * d,)
    other: list[int] = []
    if not (plain := _is_plain(marks, digits)).all():
        faulty = np.searchsorted(cell_ends, np.flatnonzero(~plain))  # indices of cells
        is_used = np.zeros(columns, dtype=bool)
        is_used[used] = True
        other = np.unique(faulty[is_used[faulty % columns]] // columns).tolist()
    ends = cell_ends.reshape(len(rows), columns)[:, used].reshape(-1)
    values = _convert(text, positions[1:], marks[:-1], digits, ends)
    return values.reshape(len(rows), len(used)), other


def _is_plain(marks: npt.NDArray[np.uint8], digits: IntArray) -> BoolArray:
    """Whether each mark but the first, with the digits before it, may follow the previous mark; `(K,)`."""
    before, mark = marks[:-1], marks[1:]
    has_digits = digits > 0
    after_point = before == _POINT
    may_lead = ((before == _COMMA) | (before == _SPACE)) & ~has_digits
    leads = ((mark == _SPACE) | (mark == _MINUS)) & may_lead
    # The digits before a point may be the only ones of a cell.
    before_point = np.concatenate(([False], has_digits[:-1])) & after_point
    plain: BoolArray = leads | ((mark == _POINT) & ~after_point) | ((mark == _COMMA) & (has_digits | before_point))
    return np.logical_and(plain, digits <= MAX_DIGITS, out=plain)


def _convert(
    text: npt.NDArray[np.uint8], positions: IntArray, before: npt.NDArray[np.uint8], digits: IntArray, ends: IntArray
) -> DoubleArray:
    """Values of the cells that end with the marks of index `ends`; the other arrays are by mark."""
    has_point = before[ends] == _POINT
    whole_ends = ends - has_point  # the mark after the whole part: the point, or the cell's end
    decimals = np.where(has_point, np.minimum(digits[ends], MAX_DIGITS), 0)
    words = np.ndarray((text.size - _WORD + 1,), dtype="<u8", buffer=text, strides=(1,))
    whole = _parse_digits(words[positions[whole_ends] - _WORD], np.minimum(digits[whole_ends], MAX_DIGITS))
    fraction = _parse_digits(words[positions[ends] - _WORD], decimals)
    scale = _POWERS[decimals]
    values = (whole * scale + fraction).astype(np.float64) / scale.astype(np.float64)
    np.negative(values, out=values, where=before[whole_ends] == _MINUS)
    return values


def _parse_digits(words: npt.NDArray[np.uint64], count: IntArray) -> npt.NDArray[np.uint64]:
    """Number written by the last `count` of eight characters, the first in the lowest byte (Mula and Lemire's SWAR)."""
    ones = words & _LAST_BYTES[count] & np.uint64(0x0F0F0F0F0F0F0F0F)
    tens = (ones * np.uint64(10 * 2**8 + 1) >> np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF)
    hundreds = (tens * np.uint64(100 * 2**16 + 1) >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF)
    return hundreds * np.uint64(10_000 * 2**32 + 1) >> np.uint64(32)
