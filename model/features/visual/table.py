"""Lines of an OpenFace 2 CSV → the used cells of every row as numbers, or an error naming line and column.

Own code: pandas accepts truncated rows, and `numpy.loadtxt`, slower for the usual 35 of 714 columns, names no cell.
Shapes: R rows of the file, u used columns.
"""

import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import BinaryIO, Final, Literal

import numpy as np

from model.errors import CorruptModality, ModalityTooLarge, UnsupportedFormat
from model.features.visual.plain_numbers import parse_plain
from model.features.visual.table_format import (
    CONVERTED,
    UTF8_MARK,
    column_names,
    comma_separated,
    encoding_of,
    foreign_content,
    foreign_table,
    separator_of,
    unquoted,
)
from model.modality import Modality
from model.types import BoolArray, DoubleArray

ColumnSet = Literal["all", "action_units"]

INTENSITIES: Final = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)
OCCURRENCES: Final = (*INTENSITIES[:-1], 28, 45)

ACTION_UNIT_COLUMNS: Final = (
    *(f"AU{unit:02d}_r" for unit in INTENSITIES),
    *(f"AU{unit:02d}_c" for unit in OCCURRENCES),
)
"""17 intensities, 0 to 5, then 18 occurrences, 0 or 1."""
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

_KNOWN: Final = frozenset((*ALL_COLUMNS, "frame", "face_id", "face", "timestamp", "confidence", "success"))
MAX_MAGNITUDE: Final = 1e9  # pixels, millimetres, radians: beyond any measurement, and its square fits in float32
_NUMBER: Final = re.compile(rb"[ \t]*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?[ \t]*")
_NUMBER_BYTES: Final = b"0123456789+-.eE, \t"
_NO_NUMBER: Final = re.compile(  # as C (Microsoft's too), R and pandas write it
    rb"[ \t]*(?:[-+]?nan(?:\([a-z0-9_]*\))?|[-+]?1\.#(?:qnan|snan|ind)\d*|na|#?n/a|null)?[ \t]*", re.IGNORECASE
)
LISTED: Final = 5  # names of columns or faces in one message
_OPTIONAL: Final = {  # what a file may tell of its rows → names of the column, the first of which is preferred
    "success": ("success",),
    "confidence": ("confidence",),
    "face": ("face_id", "face"),
    "time": ("timestamp", "frame"),
}
corrupt: Final = partial(CorruptModality, Modality.VISUAL)
too_large: Final = partial(ModalityTooLarge, Modality.VISUAL)
_BATCH_BYTES: Final = 128 * 2**10  # of rows parsed at once, so that arrays fit in the L2 cache


@dataclass(frozen=True, slots=True)
class OpenFaceLimits:
    """Limits of a file: its bytes, bytes of a line without its end, columns, and rows without the header."""

    max_bytes: int = 64 * 2**20
    max_line_bytes: int = 64 * 2**10
    max_columns: int = 1024
    max_rows: int = 20_000


def read_table(source: BinaryIO, columns: ColumnSet, limits: OpenFaceLimits) -> "Table":
    """Read all rows of a file; for arguments and errors see `model.features.visual.openface.read_openface`."""
    lines = _lines(source, limits)
    header = Header(next(lines), columns, limits)
    return header.parse(_rows(lines, header, limits))


def _rows(lines: Iterator[bytes], header: "Header", limits: OpenFaceLimits) -> Iterator[bytes]:
    """Yield the rows with commas between cells, each as wide as the header; blank lines may follow the last one."""
    columns, has_commas, blank = len(header.names), header.separator == b",", 0
    for number, line in enumerate(lines, start=2):
        row = line if has_commas else comma_separated(line, header.separator)
        cells = row.count(b",") + 1
        if cells != columns and not line.strip():
            blank = blank or number
            continue
        if blank:
            raise corrupt("a blank line stands among the rows", f"line {blank}")
        if number - 2 == limits.max_rows:
            raise too_large(f"at most {limits.max_rows} rows are accepted", f"line {number}")
        if cells != columns:
            detail = f"{cells} cells stand under {columns} columns"
            if cells > columns and b"." not in line:
                detail += "; its numbers seem to have decimal commas: write points, or semicolons between the cells"
            raise corrupt(detail, f"line {number}")
        yield row


def _lines(source: BinaryIO, limits: OpenFaceLimits) -> Iterator[bytes]:
    """Yield the lines without their ends; those of a file in UTF-16 or UTF-32 in UTF-8."""
    # Two more for CR and LF, one more to detect that a line is too long.
    size = limits.max_line_bytes + 3
    first = source.readline(size)
    if (encoding := encoding_of(first)) is not None:
        content = first + source.read(max(0, limits.max_bytes + 1 - len(first)))
        if len(content) > limits.max_bytes:
            raise too_large(f"a file may hold at most {limits.max_bytes} bytes")
        try:
            source = io.BytesIO(content.decode(encoding).encode())
        except UnicodeError:
            raise corrupt(f"the file begins as {encoding} and is not {encoding}") from None
        first = source.readline(size)
    received = 0
    for number, raw in enumerate(chain([first], iter(partial(source.readline, size), b"")), start=1):
        received += len(raw)
        if received > limits.max_bytes:
            raise too_large(f"a file may hold at most {limits.max_bytes} bytes")
        line = raw.rstrip(b"\r\n")
        if len(line) > limits.max_line_bytes:
            raise too_large(f"a line may hold at most {limits.max_line_bytes} bytes", f"line {number}")
        yield line


class Header:
    """Names and positions of the columns."""

    def __init__(self, line: bytes, columns: ColumnSet, limits: OpenFaceLimits) -> None:
        line = line.removeprefix(UTF8_MARK)
        if (content := foreign_content(line)) is not None:
            raise UnsupportedFormat(Modality.VISUAL, content, "line 1")
        self.separator = separator_of(line, _KNOWN)
        if line.count(self.separator) >= limits.max_columns:
            raise too_large(f"at most {limits.max_columns} columns are accepted", "line 1")
        self.names = column_names(line, self.separator)
        counts = Counter(self.names)
        self.converted_from = next((tool for name, tool in CONVERTED.items() if name in counts), None)
        wanted = ALL_COLUMNS if columns == "all" else ACTION_UNIT_COLUMNS
        if missing := [name for name in wanted if name not in counts]:
            listed = ", ".join(missing[:LISTED]) + (f" and {len(missing) - LISTED} more" if missing[LISTED:] else "")
            detail = f"{len(missing)} of the {len(wanted)} columns needed are missing: {listed}"
            detail = "; ".join(filter(None, (foreign_table(self.names), detail)))
            raise UnsupportedFormat(Modality.VISUAL, detail, "line 1")
        index = {name: place for place, name in enumerate(self.names)}
        self.optional = {
            name: next(index[other] for other in names if other in index)
            for name, names in _OPTIONAL.items()
            if not counts.keys().isdisjoint(names)
        }
        self.used = np.array([*self.optional.values(), *(index[name] for name in wanted)])
        self.size = len(wanted)
        if any(counts[self.names[at]] > 1 for at in self.used):
            raise corrupt("two columns have the same name", "line 1")

    def parse(self, rows: Iterator[bytes]) -> "Table":
        """Parse all rows of the file, each as wide as the header, batch by batch so that few rows are in memory."""
        tables = [np.empty((0, len(self.used)))]
        faults: dict[int, Fault] = {}
        first = 0
        for batch in _batches(rows):
            values, other = parse_plain(batch, len(self.names), self.used)
            odd = {row: unquoted(batch[row]) for row in other}
            if odd and not self._parse_any(odd, values):
                for row, text in odd.items():
                    values[row], fault = self._parse_row(text)
                    if fault is not None:
                        faults[first + row] = fault
            tables.append(values)
            first += len(batch)
        return Table(self, np.concatenate(tables), faults)

    def _parse_any(self, rows: Mapping[int, bytes], values: DoubleArray) -> bool:
        """Parse rows with numbers in any notation into their `values` `(R, u)`; False if a cell is faulty."""
        chosen = list(rows.values())
        if any(row.translate(None, _NUMBER_BYTES) for row in chosen):  # `loadtxt` also accepts nan and Unicode spaces
            return False
        try:
            table = np.loadtxt(chosen, delimiter=",", comments=None, ndmin=2, usecols=self.used.tolist())
        except ValueError:
            return False
        values[list(rows)] = table
        return bool((np.abs(table) <= MAX_MAGNITUDE).all())

    def _parse_row(self, row: bytes) -> tuple[list[float], "Fault | None"]:
        """Parse the used cells of one row `(u,)` with numbers in any notation, up to the first faulty value."""
        cells = row.split(b",")
        values, fault = [math.nan] * len(self.used), None
        for at, column in enumerate(self.used.tolist()):
            values[at], detail = _parse_cell(cells[column])
            if math.isnan(values[at]) and column != self.optional.get("time"):
                fault = fault or Fault(column, detail)
                if at >= len(self.optional):
                    break
        return values, fault

    def place(self, row: int, column: int) -> str:
        """Line and column of a cell; `row` counts from 0."""
        name = self.names[column]
        # Other names are the sender's content, which error messages do not repeat.
        return f"line {row + 2}, column {name if name in _KNOWN else column + 1}"


@dataclass(frozen=True, slots=True)
class Fault:
    """The first faulty cell of a row: its column, and what is wrong; None where it only holds no number."""

    column: int
    detail: str | None


@dataclass(frozen=True, slots=True)
class Table:
    """The used cells of a file.

    Args:
        header: of the file.
        cells: `(R, u)`: the optional columns that the file has, then the needed ones. NaN in faulty cells, and in the
            needed cells after the first faulty one of a row.
        faults: by row.
    """

    header: Header
    cells: DoubleArray
    faults: Mapping[int, Fault]

    def optional(self) -> Mapping[str, DoubleArray]:
        """The optional columns `(R,)` that the file has."""
        return dict(zip(self.header.optional, self.cells.T, strict=False))

    def check(self, faulty: BoolArray, optional: str, detail: str) -> None:
        """Raise `CorruptModality` that names the first faulty row `(R,)` and an optional column, if any row is."""
        if faulty.any():
            raise corrupt(detail, self.place(int(np.argmax(faulty)), optional))

    def place(self, row: int, optional: str) -> str:
        """Line and column of a cell of an optional column."""
        return self.header.place(row, self.header.optional[optional])

    def fault(self, rows: BoolArray) -> str:
        """Line and column of the fault of the first of `rows` `(R,)`."""
        row = int(np.argmax(rows))
        return self.header.place(row, self.faults[row].column)


def _batches(rows: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Yield lists of rows of at most `_BATCH_BYTES`, or of one row."""
    batch: list[bytes] = []
    size = 0
    for row in rows:
        size += len(row)
        if size > _BATCH_BYTES and batch:
            yield batch
            batch, size = [], len(row)
        batch.append(row)
    if batch:
        yield batch


def _parse_cell(cell: bytes) -> tuple[float, str | None]:
    """Value of a cell, or NaN and what is wrong with it: None where it only holds no number."""
    try:
        value = float(cell)
    except ValueError:
        cell = cell.strip(b" \t")
        cell = cell[1:-1] if cell[:1] == cell[-1:] == b'"' else cell
        value = float(cell) if _NUMBER.fullmatch(cell) else math.nan
    if -MAX_MAGNITUDE <= value <= MAX_MAGNITUDE and b"_" not in cell:  # `float` accepts underscores
        return value, None
    if _NO_NUMBER.fullmatch(cell):
        return math.nan, None
    is_large = math.isfinite(value) and b"_" not in cell
    return math.nan, "a cell is larger than any measure" if is_large else "a cell is not a finite number"
