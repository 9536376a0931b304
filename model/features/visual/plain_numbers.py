"""Rows of plainly written numbers → an array, many rows at once.

For: face files (`model.features.visual.openface`), some 700 numbers a line, of which often a few dozen are used.
Does not know: columns' names, limits, errors: a row that is not plain is said to be so, and its reader decides.
Source: eight digits are turned into a number by three multiplications of a machine word (Mula & Lemire's SWAR parsing);
a whole number below 2⁵³ divided by a power of ten below 10²² is rounded once, so it is the very number `float` gives
(Clinger, "How to Read Floating Point Numbers Accurately", PLDI 1990).

Plain is: spaces, a minus sign, at most seven digits, a point, at most seven digits; only the digits before or after
the point are needed. All else, be it a number or not, is not plain.

Shapes: R rows, d columns, u used columns, K marks: bytes that are no digit.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from model.types import BoolArray, DoubleArray, IntArray

Bytes = npt.NDArray[np.uint8]
Places = IntArray

MOST_DIGITS: Final = 7  # on either side of the point: fourteen in all stay below 2⁵³
_COMMA, _POINT, _MINUS, _SPACE, _ZERO = b",.- 0"
_WORD: Final = 8  # bytes
_HEAD: Final = b" " * (_WORD - 1) + b","  # so that a word can be read before the first mark, and it has one before it
_LAST_BYTES: Final = np.array([0, *(2**64 - 2 ** (64 - 8 * n) for n in range(1, _WORD + 1))], dtype=np.uint64)
_POWERS: Final = 10 ** np.arange(MOST_DIGITS + 1, dtype=np.uint64)


def parse_plain(lines: Sequence[bytes], columns: int, used: npt.NDArray[np.intp]) -> tuple[DoubleArray, list[int]]:
    """Parse lines of numbers separated by commas.

    Args:
        lines: R of them, each with `columns - 1` commas and no line end.
        columns: d.
        used: `(u,)` places of the columns to return.

    Returns:
        `(R, u)` values, and the numbers of the rows that are not plain, rising; their values mean nothing.
    """
    text = np.frombuffer(b"".join((_HEAD, b",".join(lines), b",")), dtype=np.uint8)
    places = np.flatnonzero((text - np.uint8(_ZERO))[_WORD - 1 :] > 9) + (_WORD - 1)  # (K + 1,), the head's comma first
    marks = text[places]
    digits = np.diff(places) - 1  # (K,): between a mark and the one before
    cell_ends = np.flatnonzero(marks[1:] == _COMMA)  # (R * d,)
    faults = np.flatnonzero(~_is_plain(marks, digits))
    odd = np.unique(np.searchsorted(cell_ends, faults) // columns)
    ends = cell_ends.reshape(len(lines), columns)[:, used].reshape(-1)
    values = _convert(text, places[1:], marks[:-1], np.minimum(digits, MOST_DIGITS), ends)
    return values.reshape(len(lines), len(used)), odd.tolist()


def _is_plain(marks: Bytes, digits: Places) -> BoolArray:
    """Whether each mark but the first, with the digits before it, may follow the mark before; `(K,)`."""
    before, mark = marks[:-1], marks[1:]
    some = digits > 0
    after_point = before == _POINT
    leads = (mark == _SPACE) | (mark == _MINUS)
    may_lead = ((before == _COMMA) | (before == _SPACE)) & ~some
    # Of a cell with a point, the digits before it may be all there are.
    before_point = np.concatenate(([False], some[:-1])) & after_point
    may_end = some | before_point
    plain: BoolArray = (leads & may_lead) | ((mark == _POINT) & ~after_point) | ((mark == _COMMA) & may_end)
    return np.logical_and(plain, digits <= MOST_DIGITS, out=plain)


def _convert(text: Bytes, places: Places, before: Bytes, digits: Places, ends: Places) -> DoubleArray:
    """Values of the cells that end with the marks numbered `ends`; places, marks before and digits are by mark."""
    pointed = before[ends] == _POINT
    wholes = ends - pointed  # the mark behind the whole part: the point, or the cell's end
    decimals = np.where(pointed, digits[ends], 0)
    words = np.ndarray((text.size - _WORD + 1,), dtype="<u8", buffer=text, strides=(1,))
    whole = _last_digits(words[places[wholes] - _WORD], digits[wholes])
    fraction = _last_digits(words[places[ends] - _WORD], decimals)
    scale = _POWERS[decimals]
    values = (whole * scale + fraction).astype(np.float64) / scale.astype(np.float64)
    np.negative(values, out=values, where=before[wholes] == _MINUS)
    return values


def _last_digits(words: npt.NDArray[np.uint64], count: Places) -> npt.NDArray[np.uint64]:
    """The number that the last `count` of eight characters write; the first character is the lowest byte."""
    ones = words & _LAST_BYTES[count] & np.uint64(0x0F0F0F0F0F0F0F0F)
    tens = (ones * np.uint64(10 * 2**8 + 1) >> np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF)
    hundreds = (tens * np.uint64(100 * 2**16 + 1) >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF)
    return hundreds * np.uint64(10_000 * 2**32 + 1) >> np.uint64(32)
