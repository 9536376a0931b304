"""An OpenFace 2 CSV → the frames of one face, or an error naming line and column.

For: the one way a face file is read, in training, on the command line and behind the service.
Does not know: normalisation (`model.features.normalization`), uploads, processes.
Source: the output format of OpenFace 2 (Baltrusaitis et al., FG 2018), sequence and image mode.

Accepted: names with or without leading spaces, a byte order mark, CRLF or LF, no `face_id` (older versions: one face),
no frame and timestamp (image mode, whose faces are numbered by `face`), no confidence or success (every frame then
counts), further columns (checked, not used).

Of several faces the most confident is followed: the one with the greatest sum of confidence over its usable frames, so
that a face seen clearly all along wins over one that passes by; the lower id of two equal ones.

Action units have a scale, which other tools and spreadsheets do not keep to. In the rows used, a value somewhat outside
it is counted and set to the nearest end; one far outside it is an error, because no meaning can be read from the file.

Shapes: T kept frames, d columns.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal

import numpy as np
import numpy.typing as npt

from model.errors import CorruptModality, EmptyModality, ModalityError, ModalityTooLarge, UnsupportedFormat
from model.features.visual.plain_numbers import parse_plain
from model.modality import Modality
from model.types import DoubleArray, FloatArray

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
"""How far outside its scale an action unit may lie: an intensity from -2 to 7, an occurrence from -2 to 3."""

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

assert len(ACTION_UNIT_COLUMNS) == 35, "the action units of OpenFace 2"
assert len(ALL_COLUMNS) == 709, "the paper's visual size"

MAX_MAGNITUDE: Final = 1e9  # pixels, millimetres, radians: far past any measurement, well within float32's squares
_NUMBER: Final = re.compile(rb"[ \t]*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?[ \t]*")
_NUMBER_BYTES: Final = b"0123456789+-.eE, \t"
_BATCH_BYTES: Final = 128 * 2**10  # of lines parsed at once: worth the trouble, and still within a core's cache


@dataclass(frozen=True, slots=True)
class OpenFaceLimits:
    """What a file may cost. A line is counted without its end; rows without the header."""

    max_bytes: int = 8 * 2**20
    max_line_bytes: int = 64 * 2**10
    max_columns: int = 1024
    max_rows: int = 20_000


@dataclass(frozen=True, slots=True)
class FaceTrack:
    """The usable frames of one face.

    Args:
        values: `(T, d)` float32, in the order of the column set.
        frames: rows in the file, those of other faces included.
        kept: T.
        skipped_unsuccessful: of the face followed, rows with `success` 0.
        skipped_low_confidence: of the face followed, successful rows under the confidence asked for.
        faces: how many the file holds.
        face_id: of the face followed; None in a file that does not number faces.
        out_of_scale: rows of `values` in which an intensity lay outside 0 to 5, or an occurrence was neither 0 nor 1;
            `values` holds the nearest end of the scale.
        all_zero: whether every action unit is 0 in every row of `values`, as a face without any movement or tension
            never is.
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


def read_openface(
    source: Path | BinaryIO, columns: ColumnSet, min_confidence: float, limits: OpenFaceLimits | None = None
) -> FaceTrack:
    """Read a whole file; every cell of every row must be a finite number.

    Args:
        source: a path, or a binary file read from where it stands.
        columns: which columns `values` takes; the others may be absent.
        min_confidence: frames under this confidence are skipped.
        limits: `OpenFaceLimits()` when not given.

    Raises:
        UnsupportedFormat: a needed column is not there.
        CorruptModality: not a CSV of numbers, or an action unit of a used row lies more than `MAX_EXCESS` outside its
            scale; names line and column.
        ModalityTooLarge: past a limit.
        EmptyModality: `no_face`: no frame is usable.
        OSError: the path cannot be read.
    """
    limits = limits or OpenFaceLimits()
    if isinstance(source, Path):
        with source.open("rb") as file:
            return _read(file, columns, min_confidence, limits)
    return _read(source, columns, min_confidence, limits)


def _read(source: BinaryIO, columns: ColumnSet, min_confidence: float, limits: OpenFaceLimits) -> FaceTrack:
    lines = _lines(source, limits)
    header = _Header(next(lines, b""), columns, limits)
    tables = list(_tables(lines, header, limits))
    if not tables:
        raise EmptyModality(Modality.VISUAL, "no_face", "the file holds no frame")
    return _follow(header, np.concatenate(tables), min_confidence)


def _tables(lines: Iterator[bytes], header: "_Header", limits: OpenFaceLimits) -> Iterator[DoubleArray]:
    """The used cells of some rows at a time. What is wrong first in the file is said first."""
    pending: list[bytes] = []
    first = 2  # number of the first pending line
    size = 0
    try:
        for line in _rows(lines, header, limits):
            pending.append(line)
            size += len(line)
            if size >= _BATCH_BYTES:
                yield header.pick(pending, first)
                first += len(pending)
                pending, size = [], 0
    except ModalityError:
        if pending:
            header.pick(pending, first)
        raise
    if pending:
        yield header.pick(pending, first)


def _rows(lines: Iterator[bytes], header: "_Header", limits: OpenFaceLimits) -> Iterator[bytes]:
    """The lines that hold rows, each as wide as the header; blank ones may stand at the end."""
    end = 0
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            end = end or number
            continue
        if end:
            raise CorruptModality(Modality.VISUAL, "a blank line stands among the rows", f"line {end}")
        if number - 2 == limits.max_rows:
            raise ModalityTooLarge(Modality.VISUAL, f"at most {limits.max_rows} rows are accepted", f"line {number}")
        cells = line.count(b",") + 1
        if cells != len(header.names):
            raise CorruptModality(
                Modality.VISUAL, f"{cells} cells stand under {len(header.names)} columns", f"line {number}"
            )
        yield line


def _lines(source: BinaryIO, limits: OpenFaceLimits) -> Iterator[bytes]:
    """The lines without their ends, however long the file says they are."""
    received, number = 0, 0
    # Two more for CR and LF, one more to see that a line is too long.
    while raw := source.readline(limits.max_line_bytes + 3):
        number += 1
        received += len(raw)
        if received > limits.max_bytes:
            raise ModalityTooLarge(Modality.VISUAL, f"a file may hold at most {limits.max_bytes} bytes")
        line = raw.removesuffix(b"\n").removesuffix(b"\r")
        if len(line) > limits.max_line_bytes:
            raise ModalityTooLarge(
                Modality.VISUAL, f"a line may hold at most {limits.max_line_bytes} bytes", f"line {number}"
            )
        yield line


class _Header:
    """The names of the columns, and where those that matter stand."""

    def __init__(self, line: bytes, columns: ColumnSet, limits: OpenFaceLimits) -> None:
        commas = line.count(b",")
        if commas >= limits.max_columns:
            raise ModalityTooLarge(Modality.VISUAL, f"at most {limits.max_columns} columns are accepted", "line 1")
        try:
            self.names = [name.strip() for name in line.removeprefix(b"\xef\xbb\xbf").decode("ascii").split(",")]
        except UnicodeDecodeError:
            raise CorruptModality(Modality.VISUAL, "the header is not ASCII text", "line 1") from None
        self._index = {name: place for place, name in enumerate(self.names)}
        wanted = ALL_COLUMNS if columns == "all" else ACTION_UNIT_COLUMNS
        missing = [name for name in wanted if name not in self._index]
        if missing:
            raise UnsupportedFormat(
                Modality.VISUAL,
                f"{len(missing)} of the {len(wanted)} columns needed are not there, {missing[0]} among them",
                "line 1",
            )
        if len(self._index) < len(self.names):
            raise CorruptModality(Modality.VISUAL, "two columns have the same name", "line 1")
        self.wanted = [self._index[name] for name in wanted]
        self.success = self._index.get("success")
        self.confidence = self._index.get("confidence")
        self.face = self._index.get("face_id", self._index.get("face"))
        used = [*self.wanted, self.success, self.confidence, self.face]
        # What is kept of a row: the values, then success, confidence and face, each only where the file has it.
        self._used = np.array([place for place in used if place is not None], dtype=np.intp)

    def pick(self, lines: Sequence[bytes], first: int) -> DoubleArray:
        """The used cells of rows that are as wide as the header; the first is line `first` of the file.

        Raises:
            CorruptModality: a cell of theirs is not a finite number.
        """
        values, odd = parse_plain(lines, len(self.names), self._used)
        for row in odd:
            values[row] = self._pick_any(lines[row], first + row)
        return values

    def _pick_any(self, line: bytes, number: int) -> DoubleArray:
        """The used cells of one row, however its numbers are written."""
        cells = line.split(b",")
        try:
            # float() also takes nan, inf and 1_000; none can be written with the bytes left here.
            values = None if line.translate(None, _NUMBER_BYTES) else np.array([float(cell) for cell in cells])
        except ValueError:
            values = None
        if values is None or not np.isfinite(values).all():
            column = next((n for n, c in zip(self.names, cells, strict=True) if not _is_finite_number(c)), "")
            raise CorruptModality(Modality.VISUAL, "a cell is not a finite number", self._place(number, column))
        used = values[self._used]
        if not (np.abs(used) <= MAX_MAGNITUDE).all():
            column = self.names[self._used[int(np.abs(used).argmax())]]
            raise CorruptModality(Modality.VISUAL, "a cell is larger than any measure", self._place(number, column))
        return used

    def _place(self, line: int, column: str) -> str:
        return f"line {line}, column {column if column in _KNOWN else self._ordinal(column)}"

    def _ordinal(self, column: str) -> int:
        # A name that is not OpenFace's is the sender's content; its number says as much.
        return self._index[column] + 1


_KNOWN: Final = frozenset((*ALL_COLUMNS, "frame", "face_id", "face", "timestamp", "confidence", "success"))


def _is_finite_number(cell: bytes) -> bool:
    return _NUMBER.fullmatch(cell) is not None and math.isfinite(float(cell))


def _follow(header: _Header, table: DoubleArray, min_confidence: float) -> FaceTrack:
    """Choose the face and keep its usable rows; `table` is `(rows, used cells)`."""
    values, rest = table[:, : len(header.wanted)], table[:, len(header.wanted) :].T
    everyone = np.ones(len(table))
    marks: Iterator[DoubleArray] = iter(rest)
    success = everyone if header.success is None else next(marks)
    confidence = everyone if header.confidence is None else next(marks)
    face = None if header.face is None else next(marks)
    if face is not None and not (face == np.floor(face)).all():
        line = 2 + int(np.argmin(face == np.floor(face)))
        raise CorruptModality(
            Modality.VISUAL, "a face's number is not whole", f"line {line}, column {header.names[header.face or 0]}"
        )
    successful = success > 0
    usable = successful & (confidence >= min_confidence)
    ids: Sequence[float] = [] if face is None else [float(number) for number in np.unique(face)]
    # `max` keeps the first, which is the lowest id, of equal ones.
    chosen = max(ids, key=lambda number: float(confidence[usable & (face == number)].sum()), default=None)
    own = np.ones(len(table), dtype=bool) if chosen is None else face == chosen
    kept = usable & own
    if not kept.any():
        raise EmptyModality(Modality.VISUAL, "no_face", "no frame shows a face with enough confidence")
    used = values[kept]
    units = used[:, -len(ACTION_UNIT_COLUMNS) :]  # either column set ends with them
    out_of_scale = _keep_to_scale(units, np.flatnonzero(kept))
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


def _keep_to_scale(units: DoubleArray, rows: npt.NDArray[np.intp]) -> int:
    """Move action units `(T, 35)`, in place, to the nearest value of their scale; in how many rows one lay outside.

    Args:
        units: of the rows used.
        rows: `(T,)` places of those in the file, from 0.

    Raises:
        CorruptModality: one lies more than `MAX_EXCESS` outside.
    """
    nearest = np.clip(units, 0.0, _TOPS)
    excess = np.abs(units - nearest)
    if (far := excess > MAX_EXCESS).any():
        row, column = (int(place) for place in np.argwhere(far)[0])
        is_intensity = column < len(_INTENSITIES)
        scale = f"intensities go from 0 to {MAX_INTENSITY:g}" if is_intensity else "occurrences are 0 or 1"
        raise CorruptModality(
            Modality.VISUAL,
            f"an action unit lies far outside its scale: {scale}",
            f"line {2 + rows[row]}, column {ACTION_UNIT_COLUMNS[column]}",
        )
    odd = excess > 0
    occurrences = nearest[:, len(_INTENSITIES) :]
    odd[:, len(_INTENSITIES) :] |= (occurrences != 0) & (occurrences != 1)
    units[:] = nearest
    return int(odd.any(axis=1).sum())


_TOPS: Final = np.array([MAX_INTENSITY] * len(_INTENSITIES) + [1.0] * len(_OCCURRENCES))
"""Upper end of each action unit's scale; the lower one is 0."""
