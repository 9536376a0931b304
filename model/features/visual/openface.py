"""An OpenFace 2 CSV (Baltrusaitis et al., FG 2018) → the frames of one face, or an error naming line and column.

Own code: pandas accepts truncated rows, and `numpy.loadtxt`, slower for the usual 35 of 714 columns, names no cell.
Shapes: R rows of the file, T kept frames, d columns, u used columns, K marks: bytes that are not digits.
"""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, Literal

import numpy as np
import numpy.typing as npt

from model.errors import CorruptModality, EmptyModality, ModalityError, ModalityTooLarge, UnsupportedFormat
from model.modality import Modality
from model.types import BoolArray, DoubleArray, FloatArray, IntArray

ColumnSet = Literal["all", "action_units"]

_INTENSITIES: Final = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)
_OCCURRENCES: Final = (*_INTENSITIES[:-1], 28, 45)

ACTION_UNIT_COLUMNS: Final = (
    *(f"AU{unit:02d}_r" for unit in _INTENSITIES),
    *(f"AU{unit:02d}_c" for unit in _OCCURRENCES),
)
"""17 intensities, 0 to 5, then 18 occurrences, 0 or 1."""
MAX_INTENSITY: Final = 5.0
MAX_EXCESS: Final = 2.0
"""Accepted excess of an action unit beyond its scale: intensities from -2 to 7, occurrences from -2 to 3. A value that
exceeds it means that the file uses another scale."""

ALL_COLUMNS: Final = (
    *(f"gaze_{eye}_{axis}" for eye in (0, 1) for axis in "xyz"),
    "gaze_angle_x",
    "gaze_angle_y",
    *(f"eye_lmk_{axis}_{point}" for axis in "xyXYZ" for point in range(56)),
    *(f"pose_{axis}" for axis in ("Tx", "Ty", "Tz", "Rx", "Ry", "Rz")),
    *(f"{axis}_{point}" for axis in "xyXYZ" for point in range(68)),
    *(f"p_{name}" for name in ("scale", "rx", "ry", "rz", "tx", "ty")),
    *(f"p_{mode}" for mode in range(34)),
    *ACTION_UNIT_COLUMNS,
)
"""In OpenFace's order: gaze 8, eye landmarks 280, pose 6, 2-D and 3-D landmarks 340, shape 40, action units 35."""

_MAX_VALUES: Final = np.repeat([MAX_INTENSITY, 1.0], [len(_INTENSITIES), len(_OCCURRENCES)])  # the least are 0
_KNOWN: Final = frozenset((*ALL_COLUMNS, "frame", "face_id", "face", "timestamp", "confidence", "success"))
MAX_MAGNITUDE: Final = 1e9  # pixels, millimetres, radians: beyond any measurement, and its square fits in float32
_NUMBER: Final = re.compile(rb"[ \t]*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?[ \t]*")
_NUMBER_BYTES: Final = b"0123456789+-.eE, \t"
_corrupt: Final = partial(CorruptModality, Modality.VISUAL)
_too_large: Final = partial(ModalityTooLarge, Modality.VISUAL)
_BATCH_BYTES: Final = 128 * 2**10  # of rows parsed at once, so that arrays fit in the L2 cache

# Plainly written numbers, see `parse_plain`.
MAX_DIGITS: Final = 7  # on either side of the point: a whole number of fourteen digits is below 2⁵³, exact in float64
_COMMA, _POINT, _MINUS, _SPACE, _ZERO = b",.- 0"
_WORD: Final = 8  # bytes
_PREFIX: Final = b" " * (_WORD - 1) + b","  # so that a word can be read before the first mark, and a mark precedes it
_LAST_BYTES: Final = np.array([0, *(2**64 - 2 ** (64 - 8 * n) for n in range(1, _WORD + 1))], dtype=np.uint64)
_POWERS: Final = 10 ** np.arange(MAX_DIGITS + 1, dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class OpenFaceLimits:
    """Limits of a file: its bytes, bytes of a line without its end, columns, and rows without the header."""

    max_bytes: int = 8 * 2**20
    max_line_bytes: int = 64 * 2**10
    max_columns: int = 1024
    max_rows: int = 20_000


@dataclass(frozen=True, slots=True)
class FaceTrack:
    """The usable frames of one face.

    Args:
        values: `(T, d)` float32, in the order of the column set.
        frames: rows of the file, including those of other faces.
        kept: T.
        skipped_unsuccessful: rows of this face with `success` 0.
        skipped_low_confidence: successful rows of this face below the minimum confidence.
        faces: number of faces in the file.
        face_id: of this face; None if the file does not number faces.
        out_of_scale: rows of `values` with an intensity outside 0 to 5 or an occurrence other than 0 and 1; `values`
            holds the nearest end of the scale.
        all_zero: whether every action unit of `values` is 0, which never is so for a real face.
        truncated: whether frames were cut to fit the slots.
    """

    values: FloatArray
    frames: int
    kept: int
    skipped_unsuccessful: int
    skipped_low_confidence: int
    faces: int
    face_id: int | None
    out_of_scale: int = 0
    all_zero: bool = False
    truncated: bool = False


def read_openface(
    source: Path | BinaryIO, columns: ColumnSet, min_confidence: float, limits: OpenFaceLimits | None = None
) -> FaceTrack:
    """Read a whole file; every cell must be a finite number.

    Accepts names with leading spaces, a byte order mark, CRLF and LF, further columns, and files without `face_id`
    (older versions: one face), without frame and timestamp (image mode, which numbers faces by `face`), and without
    confidence or success (every frame is used). Of several faces, the one with the greatest sum of confidence over its
    usable frames is returned, the lower id of equal ones.

    Args:
        source: a path, or a binary file at its current position.
        columns: the columns of `values`; others may be absent.
        min_confidence: frames below this confidence are skipped.
        limits: `OpenFaceLimits()` if not given.

    Raises:
        UnsupportedFormat: a needed column is missing.
        CorruptModality: not a CSV of numbers, or an action unit of a used row exceeds its scale by more than
            `MAX_EXCESS`; names line and column.
        ModalityTooLarge: a limit is exceeded.
        EmptyModality: `no_face`: no frame is usable.
        OSError: the path cannot be read.
    """
    limits = limits or OpenFaceLimits()
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        lines = _lines(file, limits)
        header = _Header(next(lines, b""), columns, limits)
        rows: list[bytes] = []
        try:
            rows.extend(_rows(lines, header, limits))
        except ModalityError:
            if rows:
                header.parse(rows)  # an error in an earlier row is reported first
            raise
    if not rows:
        raise EmptyModality(Modality.VISUAL, "no_face", "the file holds no frame")
    return _select_face(header, header.parse(rows), min_confidence)


def _rows(lines: Iterator[bytes], header: "_Header", limits: OpenFaceLimits) -> Iterator[bytes]:
    """Yield the rows, each as wide as the header; blank lines may follow the last one."""
    blank = 0
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            blank = blank or number
            continue
        if blank:
            raise _corrupt("a blank line stands among the rows", f"line {blank}")
        if number - 2 == limits.max_rows:
            raise _too_large(f"at most {limits.max_rows} rows are accepted", f"line {number}")
        cells = line.count(b",") + 1
        if cells != len(header.names):
            raise _corrupt(f"{cells} cells stand under {len(header.names)} columns", f"line {number}")
        yield line


def _lines(source: BinaryIO, limits: OpenFaceLimits) -> Iterator[bytes]:
    """Yield the lines without their ends."""
    received = 0
    # Two more for CR and LF, one more to detect that a line is too long.
    for number, raw in enumerate(iter(lambda: source.readline(limits.max_line_bytes + 3), b""), start=1):
        received += len(raw)
        if received > limits.max_bytes:
            raise _too_large(f"a file may hold at most {limits.max_bytes} bytes")
        line = raw.removesuffix(b"\n").removesuffix(b"\r")
        if len(line) > limits.max_line_bytes:
            raise _too_large(f"a line may hold at most {limits.max_line_bytes} bytes", f"line {number}")
        yield line


class _Header:
    """Names and positions of the columns."""

    def __init__(self, line: bytes, columns: ColumnSet, limits: OpenFaceLimits) -> None:
        if line.count(b",") >= limits.max_columns:
            raise _too_large(f"at most {limits.max_columns} columns are accepted", "line 1")
        try:
            self.names = [name.strip() for name in line.removeprefix(b"\xef\xbb\xbf").decode("ascii").split(",")]
        except UnicodeDecodeError:
            raise _corrupt("the header is not ASCII text", "line 1") from None
        self._index = {name: place for place, name in enumerate(self.names)}
        wanted = ALL_COLUMNS if columns == "all" else ACTION_UNIT_COLUMNS
        missing = [name for name in wanted if name not in self._index]
        if missing:
            detail = f"{len(missing)} of the {len(wanted)} columns needed are not there, {missing[0]} among them"
            raise UnsupportedFormat(Modality.VISUAL, detail, "line 1")
        if len(self._index) < len(self.names):
            raise _corrupt("two columns have the same name", "line 1")
        self.size = len(wanted)
        self.success, self.confidence = self._index.get("success"), self._index.get("confidence")
        self.face = self._index.get("face_id", self._index.get("face"))
        optional = [index for index in (self.success, self.confidence, self.face) if index is not None]
        self._used = np.array([self._index[name] for name in wanted] + optional, dtype=np.intp)

    def parse(self, rows: Sequence[bytes]) -> DoubleArray:
        """Parse all rows of the file, each as wide as the header.

        Returns:
            `(R, u)`: the values, then success, confidence and face if the file has them.

        Raises:
            CorruptModality: a cell is not a finite number, or a used cell exceeds `MAX_MAGNITUDE`.
        """
        step = max(1, _BATCH_BYTES * len(rows) // sum(map(len, rows)))
        tables = []
        for first in range(0, len(rows), step):
            batch = rows[first : first + step]
            values, other = parse_plain(batch, len(self.names), self._used)
            if other:
                values[other] = self._parse_any([batch[i] for i in other], [2 + first + i for i in other])
            tables.append(values)
        return np.concatenate(tables)

    def _parse_any(self, rows: Sequence[bytes], lines: Sequence[int]) -> DoubleArray:
        """Parse the used cells of rows with numbers in any notation; `lines` are their line numbers."""
        if not any(row.translate(None, _NUMBER_BYTES) for row in rows):  # `loadtxt` also accepts nan and Unicode spaces
            with suppress(ValueError):
                table = np.loadtxt(rows, delimiter=",", comments=None, ndmin=2)
                used = table[:, self._used]
                if np.isfinite(table).all() and (np.abs(used) <= MAX_MAGNITUDE).all():
                    return used
        return np.stack([self._parse_row(row, line) for row, line in zip(rows, lines, strict=True)])

    def _parse_row(self, row: bytes, line: int) -> DoubleArray:
        """Parse the used cells of one row, `(u,)`; names the first faulty cell."""
        cells = row.split(b",")
        for column, cell in enumerate(cells):
            if not _NUMBER.fullmatch(cell) or math.isinf(float(cell)):
                raise _corrupt("a cell is not a finite number", self._place(line, column))
        used = np.array([float(cells[i]) for i in self._used])
        if not (np.abs(used) <= MAX_MAGNITUDE).all():
            largest = int(self._used[np.abs(used).argmax()])
            raise _corrupt("a cell is larger than any measure", self._place(line, largest))
        return used

    def _place(self, line: int, column: int) -> str:
        name = self.names[column]
        # Other names are the sender's content, which error messages do not repeat.
        return f"line {line}, column {name if name in _KNOWN else column + 1}"


def _select_face(header: _Header, table: DoubleArray, min_confidence: float) -> FaceTrack:
    """Choose the face and keep its usable rows; `table` is `(R, u)` from `_Header.parse`."""
    values, optional = np.split(table, [header.size], axis=1)
    everywhere = np.ones(len(table))
    rest = iter(optional.T)
    success = everywhere if header.success is None else next(rest)
    confidence = everywhere if header.confidence is None else next(rest)
    successful = success > 0
    usable = successful & (confidence >= min_confidence)
    own, ids, chosen = everywhere > 0, np.zeros(0), None
    if header.face is not None:
        face = next(rest)
        if not (whole := face == np.floor(face)).all():
            place = f"line {2 + int(np.argmin(whole))}, column {header.names[header.face]}"
            raise _corrupt("a face's number is not whole", place)
        ids = np.unique(face)
        # `argmax` returns the first of equal sums, which belongs to the lowest id.
        chosen = ids[np.argmax([confidence[usable & (face == number)].sum() for number in ids])]
        own = face == chosen
    kept = usable & own
    if not kept.any():
        raise EmptyModality(Modality.VISUAL, "no_face", "no frame shows a face with enough confidence")
    used = values[kept]
    units = used[:, -len(ACTION_UNIT_COLUMNS) :]  # the last columns of either column set
    out_of_scale = _clip_to_scale(units, np.flatnonzero(kept))
    return FaceTrack(
        values=np.ascontiguousarray(used, dtype=np.float32),
        frames=len(table),
        kept=int(kept.sum()),
        skipped_unsuccessful=int((own & ~successful).sum()),
        skipped_low_confidence=int((own & successful & ~usable).sum()),
        faces=max(1, len(ids)),
        face_id=None if chosen is None else int(chosen),
        out_of_scale=out_of_scale,
        all_zero=not units.any(),
    )


def _clip_to_scale(units: DoubleArray, rows: npt.NDArray[np.intp]) -> int:
    """Clip action units `(T, 35)` to their scales, in place; returns the number of rows with a value off its scale.

    Args:
        units: of the used rows.
        rows: `(T,)` indices of these rows in the file, from 0.

    Raises:
        CorruptModality: a value exceeds its scale by more than `MAX_EXCESS`.
    """
    clipped = np.clip(units, 0.0, _MAX_VALUES)
    excess = np.abs(units - clipped)
    if (far := excess > MAX_EXCESS).any():
        row, column = (int(index) for index in np.argwhere(far)[0])
        is_intensity = column < len(_INTENSITIES)
        scale = f"intensities go from 0 to {MAX_INTENSITY:g}" if is_intensity else "occurrences are 0 or 1"
        place = f"line {2 + rows[row]}, column {ACTION_UNIT_COLUMNS[column]}"
        raise _corrupt(f"an action unit lies far outside its scale: {scale}", place)
    off = excess > 0
    occurrences = clipped[:, len(_INTENSITIES) :]
    off[:, len(_INTENSITIES) :] |= (occurrences != 0) & (occurrences != 1)
    units[:] = clipped
    return int(off.any(axis=1).sum())


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
        `(R, u)` values, and the ascending indices of the rows with a cell that is not plain; their values are
        undefined.
    """
    text = np.frombuffer(b"".join((_PREFIX, b",".join(rows), b",")), dtype=np.uint8)
    positions = np.flatnonzero((text - np.uint8(_ZERO))[_WORD - 1 :] > 9) + (_WORD - 1)  # (K + 1,), the prefix's first
    marks = text[positions]
    digits = np.diff(positions) - 1  # (K,): between a mark and the previous one
    cell_ends = np.flatnonzero(marks[1:] == _COMMA)  # (R * d,)
    faults = np.flatnonzero(~_is_plain(marks, digits))
    other = np.unique(np.searchsorted(cell_ends, faults) // columns)
    ends = cell_ends.reshape(len(rows), columns)[:, used].reshape(-1)
    values = _convert(text, positions[1:], marks[:-1], np.minimum(digits, MAX_DIGITS), ends)
    return values.reshape(len(rows), len(used)), other.tolist()


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
    decimals = np.where(has_point, digits[ends], 0)
    words = np.ndarray((text.size - _WORD + 1,), dtype="<u8", buffer=text, strides=(1,))
    whole = _parse_digits(words[positions[whole_ends] - _WORD], digits[whole_ends])
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
