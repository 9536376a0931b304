"""Tables as spreadsheets export them: any usual encoding and delimiter; every error names file and line."""

import csv
import io
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

from model.errors import CorpusError
from model.training.datasets.tables import Row, read_content

DELIMITERS: Final = (",", ";", "\t")
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
_SEPARATOR_LINE: Final = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)  # Excel reads and writes it


def read_export(path: Path, known: Collection[str]) -> tuple[list[str], list[Row], list[str]]:
    """Read the records of a table that a spreadsheet program has exported.

    UTF-8 with or without a byte-order mark, UTF-16 with one, or else Windows-1252. The delimiter is the comma,
    semicolon or tab by which the header has the most of the `known` names, or that of a line `sep=;` before it. Names
    in the header are read without regard to case and surrounding spaces. Records of empty cells only are left out, as
    are empty cells beyond the header.

    Args:
        path: the file.
        known: names of the columns that may be used, in lower case.

    Returns:
        The known columns that the header has; the records, with these columns; what a user should know of how the file
        was read.

    Raises:
        CorpusError: no such file, a NUL byte, an encoding that is none of these, a known column twice, a record with
            more or fewer cells than the header, or broken quoting.
    """
    content, notices = _decode(path, read_content(path))
    first = 1
    separator = _SEPARATOR_LINE.match(content)
    if separator is not None:
        content, first = content[separator.end() :], 2
    delimiter = _delimiter(content, known) if separator is None else separator[1]
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    line, records = first, []
    try:
        header = [name.strip().casefold() for name in next(reader, [])]
        columns = [name for name in header if name in known]
        if twice := sorted({name for name in columns if columns.count(name) > 1}):
            raise CorpusError(path, first, f"column named more than once: {', '.join(twice)}")
        if unused := [name for name in header if name and name not in known]:
            notices.append(f"columns that are not used: {', '.join(unused)}")
        line = first + reader.line_num
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
                    detail = f"{len(cells)} cells where the header has {len(header)}"
                    raise CorpusError(path, line, f"{detail} (separated by {delimiter!r})")
                found = dict(zip(header, cells, strict=False))
                records.append(Row(path, line, {name: found[name] for name in columns}))
            line = first + reader.line_num
    except csv.Error as error:
        raise CorpusError(path, line, f"not readable as CSV: {error}") from error
    return columns, records, notices


def _decode(path: Path, raw: bytes) -> tuple[str, list[str]]:
    if raw.startswith(_UTF_16):
        try:
            return raw.decode("utf-16"), []
        except UnicodeDecodeError as error:
            raise CorpusError(path, None, f"has the byte-order mark of UTF-16, and is not UTF-16: {error}") from error
    if b"\0" in raw:
        raise CorpusError(path, raw[: raw.index(b"\0")].count(b"\n") + 1, "holds a NUL byte")
    try:
        return raw.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        line, start = raw[: error.start].count(b"\n") + 1, error.start
    try:
        content = raw.decode("cp1252")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        detail = f"byte 0x{raw[error.start]:02x} is neither UTF-8 nor Windows-1252: export the table as UTF-8"
        raise CorpusError(path, line, detail) from error
    example = raw[start : start + 1].decode("cp1252")
    return content, [f"the file is not UTF-8 and is read as Windows-1252; line {line} then has {example!r}"]


def _delimiter(content: str, known: Collection[str]) -> str:
    header = content.partition("\n")[0]

    def names(delimiter: str) -> int:
        cells = next(csv.reader([header], delimiter=delimiter), [])
        return sum(cell.strip().casefold() in known for cell in cells)

    return max(DELIMITERS, key=names)  # the first of equal ones
