"""Tables as spreadsheets export them: any usual encoding and delimiter; every error names file and line."""

import codecs
import csv
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from model.errors import CorpusError
from model.training.datasets.tables import Row

if TYPE_CHECKING:
    import _csv

DELIMITERS: Final = (",", ";", "\t")
_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SEPARATOR_LINE: Final = re.compile(r'"?sep=(.)"?(?:\r?\n|\r)', re.IGNORECASE)  # Excel reads and writes it
_NOT_UTF_8: Final = re.compile("[\udc80-\udcff]")  # bytes that `surrogateescape` keeps
_BEYOND_ASCII: Final = re.compile("[^\x00-\x7f\udc80-\udcff]")


@dataclass(frozen=True, slots=True)
class Export:
    """A table that is being read.

    Args:
        columns: the known columns that the header has.
        records: each record, with these columns, or the error of one that cannot be read; iterated once.
        notices: what a user should be warned of in how the file was read; complete after the last record.
    """

    columns: Sequence[str]
    records: Iterator[Row | CorpusError]
    notices: list[str]


@contextmanager
def open_export(path: Path, known: Collection[str]) -> Iterator[Export]:
    """Read a table that a spreadsheet program has exported, record by record.

    UTF-8 with or without a byte-order mark, or UTF-16 with one; a cell that is not UTF-8 is read as Windows-1252. The
    delimiter is the comma, semicolon or tab by which the header has the most of the `known` names, or that of a line
    `sep=;` before it. Names in the header are read without regard to case and surrounding spaces. Records of empty
    cells only are left out, as are empty cells beyond the header.

    Args:
        path: the file.
        known: names of the columns that may be used, in lower case.

    Raises:
        CorpusError: the file cannot be read, is not the UTF-16 that its byte-order mark states, or has a header that
            cannot be read or names a known column twice. The error of a record is in `Export.records`: a NUL byte, a
            cell that is neither UTF-8 nor Windows-1252, more or fewer cells than the header, or broken quoting.
    """
    try:
        with path.open("rb") as raw:
            encoding = "utf-16" if raw.read(2) in _UTF_16 else "utf-8-sig"
        undecodable = "strict" if encoding == "utf-16" else "surrogateescape"
        with path.open(encoding=encoding, errors=undecodable, newline="") as file:
            yield _export(path, file, known)
    except OSError as error:
        raise CorpusError(path, None, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CorpusError(path, None, f"has the byte-order mark of UTF-16, and is not UTF-16: {error}") from error


def read_export(path: Path, known: Collection[str]) -> tuple[Sequence[str], list[Row], list[str]]:
    """Read a whole table; see `open_export`.

    Returns:
        The known columns that the header has; the records; what a user should be warned of.

    Raises:
        CorpusError: as `open_export`, or the error of a record.
    """
    rows: list[Row] = []
    with open_export(path, known) as export:
        for record in export.records:
            if isinstance(record, CorpusError):
                raise record
            rows.append(record)
    return export.columns, rows, export.notices


def _export(path: Path, file: IO[str], known: Collection[str]) -> Export:
    line, header_line = 1, next(file, "")
    separator = _SEPARATOR_LINE.fullmatch(header_line)
    if separator is not None:
        line, header_line = 2, next(file, "")
    delimiter = _delimiter(header_line, known) if separator is None else separator[1]
    table = csv.reader(chain([header_line], file), delimiter=delimiter, strict=True)
    try:
        cells = next(table, [])
    except csv.Error as error:
        raise CorpusError(path, line, f"not readable as CSV: {error}") from error
    _refuse_nul(path, line, cells)
    header = [_windows_1252(name, "replace").strip().casefold() for name in cells]
    columns = [name for name in header if name in known]
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise CorpusError(path, line, f"column named more than once: {', '.join(twice)}")
    unused = [name for name in header if name and name not in known]
    notices = [f"columns that are not used: {', '.join(unused)}"] if unused else []

    def row(line: int, cells: Sequence[str]) -> Row:
        if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
            detail = f"{len(cells)} cells where the header has {len(header)}"
            raise CorpusError(path, line, f"{detail} (separated by {delimiter!r})")
        _refuse_nul(path, line, cells)
        found = dict(zip(header, cells, strict=False))
        return _decoded(Row(path, line, {name: found[name] for name in columns}), notices)

    return Export(columns, _records(path, line, table, row), notices)


def _records(
    path: Path, first: int, table: "_csv.Reader", row: Callable[[int, Sequence[str]], Row]
) -> Iterator[Row | CorpusError]:
    """The records below the header, which is on the line `first`."""
    while True:
        line = first + table.line_num
        try:
            if (cells := next(table, None)) is None:
                return
            if any(cell.strip() for cell in cells):
                yield row(line, cells)
        except csv.Error as error:
            yield CorpusError(path, line, f"not readable as CSV: {error}")
        except CorpusError as error:
            yield error


def _refuse_nul(path: Path, line: int, cells: Sequence[str]) -> None:
    if any("\0" in cell for cell in cells):
        raise CorpusError(path, line, "holds a NUL byte")


def _decoded(row: Row, notices: list[str]) -> Row:
    """The row with cells that are not UTF-8 read as Windows-1252; the first of a file is a notice.

    Raises:
        CorpusError: a cell that is neither.
    """
    for name, cell in row.cells.items():
        if (byte := _NOT_UTF_8.search(cell)) is None:
            continue
        try:
            if _BEYOND_ASCII.search(cell):
                raise ValueError("some characters of the cell are UTF-8")
            row.cells[name] = _windows_1252(cell)
        except ValueError as error:
            detail = f"byte 0x{ord(byte[0]) - 0xDC00:02x} in column {name} is neither UTF-8 nor Windows-1252"
            raise row.fault(f"{detail}: export the table as UTF-8") from error
        notice = "cells that are not UTF-8 are read as Windows-1252"
        if not any(notice in other for other in notices):
            notices.append(f"{notice}; line {row.line} then has {_windows_1252(byte[0])!r}")
    return row


def _windows_1252(cell: str, errors: str = "strict") -> str:
    return cell.encode(errors="surrogateescape").decode("cp1252", errors) if _NOT_UTF_8.search(cell) else cell


def _delimiter(header: str, known: Collection[str]) -> str:
    def names(delimiter: str) -> int:
        cells = next(csv.reader([header], delimiter=delimiter), [])
        return sum(cell.strip().casefold() in known for cell in cells)

    return max(DELIMITERS, key=names)  # the first of equal ones
