"""Index of a long OpenFace CSV: time, usability and position of each row, so that parts of it can be read alone.

Shapes: R rows of a block.
"""

import math
from collections.abc import Iterator
from typing import BinaryIO, Final

import numpy as np

from model.errors import CorruptModality
from model.features.visual.table import ColumnSet, Header, OpenFaceLimits, corrupt, too_large
from model.features.visual.table_format import encoding_of
from model.modality import Modality
from model.types import DoubleArray

BLOCK_ROWS: Final = 4_096
COLUMNS: Final = ("time", "usable", "begin", "end")
"""Of a block: seconds, whether the row shows a face (0 or 1), and the bytes of the file where it begins and ends."""


def index_frames(
    file: BinaryIO, columns: ColumnSet, min_confidence: float, limits: OpenFaceLimits
) -> Iterator[DoubleArray]:
    """Index a whole file, line by line.

    The format is that of `model.features.visual.openface.read_openface`, but a timestamp is needed, and UTF-16 and
    UTF-32 are not accepted. The number of cells is checked in each row; their content is not, but for the timestamp.

    Args:
        file: a binary file at its beginning.
        columns: the columns that the file needs.
        min_confidence: rows below this confidence show no face.
        limits: of the file.

    Yields:
        `(R, 4)` blocks, in the order of `COLUMNS`; times do not decrease.

    Raises:
        UnsupportedFormat, CorruptModality, ModalityTooLarge: as `read_openface`; also for times that decrease.
    """
    size = limits.max_line_bytes + 3  # CR, LF, and one more to detect that a line is too long
    line = file.readline(size)
    if (encoding := encoding_of(line)) is not None:
        raise corrupt(f"the file is in {encoding}; the file of a recording must be in UTF-8 or ASCII")
    _check_length(line, limits, 1)
    header = Header(line.rstrip(b"\r\n"), columns, limits)
    if "time" not in header.optional or header.names[header.optional["time"]] != "timestamp":
        raise CorruptModality(Modality.VISUAL, "a recording needs the column timestamp", "line 1")
    reader = _Reader(header, min_confidence)
    block: list[tuple[float, float, int, int]] = []
    position, blank = len(line), 0
    for number, row in enumerate(iter(lambda: file.readline(size), b""), start=2):
        begin, position = position, position + len(row)
        if position > limits.max_bytes:
            raise too_large(f"a file may hold at most {limits.max_bytes} bytes")
        _check_length(row, limits, number)
        if not row.strip():
            blank = blank or number
            continue
        if blank:
            raise corrupt("a blank line stands among the rows", f"line {blank}")
        if number - 2 >= limits.max_rows:
            raise too_large(f"at most {limits.max_rows} rows are accepted", f"line {number}")
        block.append((*reader.read(row, number), begin, position))
        if len(block) == BLOCK_ROWS:
            yield np.array(block)
            block = []
    if block:
        yield np.array(block)


def _check_length(line: bytes, limits: OpenFaceLimits, number: int) -> None:
    if len(line.rstrip(b"\r\n")) > limits.max_line_bytes:
        raise too_large(f"a line may hold at most {limits.max_line_bytes} bytes", f"line {number}")


class _Reader:
    """Reads the time and the usability of one row after another."""

    def __init__(self, header: Header, min_confidence: float) -> None:
        self._separator, self._columns = header.separator, len(header.names)
        self._places = {name: header.optional.get(name) for name in ("time", "success", "confidence")}
        self._last = max(place for place in self._places.values() if place is not None)
        self._min_confidence = min_confidence
        self._time = 0.0

    def read(self, row: bytes, number: int) -> tuple[float, float]:
        """Return time and usability of a row."""
        if (cells := row.count(self._separator) + 1) != self._columns:
            raise corrupt(f"{cells} cells stand under {self._columns} columns", f"line {number}")
        leading = row.split(self._separator, self._last + 1)
        time, success, confidence = (
            math.nan if place is None else self._number(leading[place]) for place in self._places.values()
        )
        if not 0 <= time < math.inf:
            raise corrupt("a timestamp is not a number of seconds from 0 on", f"line {number}, column timestamp")
        if time < self._time:
            detail = "the time goes backwards, as in joined files; a recording needs the times of one file"
            raise corrupt(detail, f"line {number}, column timestamp")
        self._time = time
        # As in `read_openface`, a cell without a number rules out no row here: it is judged where the row is used.
        return time, float(not (success <= 0 or confidence < self._min_confidence))

    def _number(self, cell: bytes) -> float:
        cell = cell.strip(b' \t\r\n"')
        try:
            return float(cell if self._separator == b"," else cell.replace(b",", b"."))
        except ValueError:
            return math.nan
