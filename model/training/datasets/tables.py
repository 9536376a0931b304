"""Comma-separated corpus files, read row by row with every fault named by file and line.

For: the corpora, whose files are written by other people and other programs.
Does not know: what the columns mean.
"""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.errors import CorpusError


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a table.

    Args:
        path: the file.
        line: the record's first line, counted from 1 with the header as line 1.
        cells: column name → cell, as written.
    """

    path: Path
    line: int
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]

    def number(self, column: str) -> float:
        """A cell that holds a finite number.

        Raises:
            CorpusError: it does not.
        """
        cell = self.cells[column]
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or "_" in cell:  # Python reads 1_0 as 10, other programs do not
            raise self.fault(f"column {column} holds no finite number")
        return value

    def fault(self, detail: str) -> CorpusError:
        """An error that names this record."""
        return CorpusError(self.path, self.line, detail)


def read_table(path: Path, columns: Sequence[str], undecodable: str = "strict") -> Iterator[Row]:
    """Read the records of a UTF-8 file that has at least `columns`.

    Args:
        path: a CSV file with a header; a byte-order mark is allowed.
        columns: names the header must have; others may be there too.
        undecodable: what `bytes.decode` does with bytes that are not UTF-8; `replace` where only ASCII cells are used.

    Raises:
        CorpusError: no such file, not UTF-8, a NUL byte, a header without one of `columns` or with one twice, a record
            with more or fewer cells than the header, or broken quoting.
    """
    content = _decode(path, undecodable)
    # Not `splitlines`: that would also split at U+0085 and the like, which stand inside sentences.
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    line = 1
    try:
        header = next(reader, [])
        _check_header(path, header, columns)
        line = reader.line_num + 1
        for cells in reader:
            if cells:  # a blank line holds no record
                if len(cells) != len(header):
                    raise CorpusError(path, line, f"{len(cells)} cells where the header has {len(header)}")
                yield Row(path, line, dict(zip(header, cells, strict=True)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise CorpusError(path, line, f"not readable as CSV: {error}") from error


def read_content(path: Path) -> bytes:
    """The bytes of a corpus file.

    Raises:
        CorpusError: it is not there or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorpusError(path, None, f"cannot be read: {error.strerror}") from error


def _decode(path: Path, undecodable: str) -> str:
    raw = read_content(path)
    if b"\0" in raw:
        raise CorpusError(path, raw[: raw.index(b"\0")].count(b"\n") + 1, "holds a NUL byte")
    try:
        return raw.decode("utf-8-sig", errors=undecodable)
    except UnicodeDecodeError as error:
        raise CorpusError(path, raw[: error.start].count(b"\n") + 1, "is not UTF-8") from error


def _check_header(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in header]
    if missing:
        raise CorpusError(path, 1, f"missing column: {', '.join(missing)}")
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise CorpusError(path, 1, f"column named more than once: {', '.join(twice)}")
