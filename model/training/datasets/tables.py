"""Comma-separated corpus files, read row by row; every error names file and line."""

import codecs
import csv
import io
import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from model.errors import CorpusError
from model.training.datasets.base import CLASSES, EMOTIONS, SPLITS, SYNONYMS, Split

AS_WINDOWS_1252: Final = "emmr-windows-1252"
"""The `errors` of `bytes.decode` that reads bytes that are not UTF-8 as Windows-1252."""

_WINDOWS_1252: Final = {code: bytes([code]).decode("cp1252", "ignore") or chr(code) for code in range(0x80, 0xA0)}
_TO_BYTES: Final = {ord(character): code for code, character in _WINDOWS_1252.items()}


def repair(text: str) -> str:
    """Restore characters whose encoding was mistaken between UTF-8 and Windows-1252 (`â€™` or U+0092 for `’`)."""
    return re.sub(r"[^\x00-\x7f]+", _restore, text).translate(_WINDOWS_1252)


def _restore(run: re.Match[str]) -> str:
    """Characters outside ASCII that are UTF-8 read as Windows-1252; others as they are."""
    try:
        return run[0].translate(_TO_BYTES).encode("latin-1").decode("utf-8")
    except UnicodeError:
        return run[0]


def _as_windows_1252(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("latin-1").translate(_WINDOWS_1252), error.end


codecs.register_error(AS_WINDOWS_1252, _as_windows_1252)


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a table. Methods that read a cell raise `CorpusError` where it is not what they return.

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

    def fault(self, detail: str) -> CorpusError:
        """Return an error that names this record."""
        return CorpusError(self.path, self.line, detail)

    def text(self, column: str) -> str:
        """Return a cell that must not be blank."""
        if not self.cells[column].strip():
            raise self.fault(f"the {column} is empty")
        return self.cells[column]

    def number(self, column: str) -> float:
        """Return a cell that holds a finite number."""
        cell = self.cells[column]
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or "_" in cell:  # Python reads 1_0 as 10, other programs do not
            raise self.fault(f"column {column} holds no finite number")
        return value

    def whole_number(self, column: str) -> int:
        """Return a cell that holds a whole number, 0 or more."""
        if not (self.cells[column].isascii() and self.cells[column].isdecimal()):
            raise self.fault(f"column {column} holds no whole number")
        return int(self.cells[column])

    def choice(self, column: str, allowed: Collection[str]) -> str:
        """Return a cell that is one of `allowed`."""
        if self.cells[column] not in allowed:
            raise self.fault(f"unknown {column.lower()} {self.cells[column]!r}")
        return self.cells[column]

    def emotion(self, column: str = "emotion") -> str:
        """Return an emotion, as one of `EMOTIONS`."""
        cell = self.choice(column, {*EMOTIONS, *SYNONYMS})
        return SYNONYMS.get(cell, cell)

    def polarity(self) -> str | None:
        """Return the cell `polarity`, as one of `CLASSES`; None where it is empty."""
        return self.choice("polarity", CLASSES) if self.cells["polarity"] else None

    def split(self, splits: Sequence[Split] = SPLITS) -> Split:
        """Return the cell `split`, as one of `splits`."""
        for split in splits:
            if split == self.cells["split"]:
                return split
        raise self.fault(f"unknown split {self.cells['split']!r}; known are {', '.join(splits)}")


def read_table(path: Path, columns: Sequence[str], undecodable: str = "strict") -> Iterator[Row]:
    """Read the records of a UTF-8 file that has at least `columns`.

    Args:
        path: a CSV file with a header; a byte-order mark is allowed.
        columns: names the header must have; others may be there too.
        undecodable: the `errors` of `bytes.decode` for bytes that are not UTF-8; `replace` where only ASCII cells are
            used, or `AS_WINDOWS_1252`.

    Raises:
        CorpusError: no such file, not UTF-8, a NUL byte, a header without one of `columns` or with one twice, a record
            with more or fewer cells than the header, or broken quoting.
    """
    raw = read_content(path)
    if b"\0" in raw:
        raise CorpusError(path, raw[: raw.index(b"\0")].count(b"\n") + 1, "holds a NUL byte")
    try:
        content = raw.decode("utf-8-sig", errors=undecodable)
    except UnicodeDecodeError as error:
        raise CorpusError(path, raw[: error.start].count(b"\n") + 1, "is not UTF-8") from error
    # Not `splitlines`: that would also split at U+0085 and the like, which occur inside sentences.
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    line = 1
    try:
        header = next(reader, [])
        if missing := [column for column in columns if column not in header]:
            raise CorpusError(path, 1, f"missing column: {', '.join(missing)}")
        if twice := sorted({column for column in header if header.count(column) > 1}):
            raise CorpusError(path, 1, f"column named more than once: {', '.join(twice)}")
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
    """Return the bytes of a corpus file.

    Raises:
        CorpusError: the file does not exist or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorpusError(path, None, f"cannot be read: {error.strerror}") from error
