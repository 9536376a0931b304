"""The file of results that `emmr score` writes line by line, and goes on with after an interruption."""

import csv
import fcntl
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from app.api.schemas import ModelName, Prediction
from app.scoring.rows import Row
from model.errors import ConfigError
from model.modality import Modality

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS: Final = (".csv", ".jsonl", ".parquet")
ROW_GROUP: Final = 10_000  # rows of a Parquet file that are written at a time
LISTS: Final = frozenset({"key_missing_modalities", "warnings"})
FLAGS: Final = frozenset({"key_missing_detected"})
NUMBERS: Final = frozenset({"confidence", "key_missing_score", "key_missing_threshold", "transcribed_confidence"})
PROBABILITY: Final = "p_"  # prefix of the columns of the classes' probabilities

Record: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a row has no answer."""

    title: str
    detail: str


def columns_of(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of results, for weights with these classes."""
    return (
        "id",
        "label",
        "polarity",
        "confidence",
        *(f"{PROBABILITY}{name}" for name in classes),
        *(f"{modality}_{field}" for modality in Modality for field in ("status", "reason")),
        "text_source",
        "transcribed_text",
        "transcribed_confidence",
        "key_missing_detected",
        "key_missing_modalities",
        "key_missing_score",
        "key_missing_threshold",
        "polarity_full",
        "polarity_available",
        "warnings",
        "error_title",
        "error_detail",
        "model",
    )


def record_of(row: Row, outcome: Prediction | Failure) -> dict[str, Any]:
    """Return the cells of a row by column; those that are not named are empty."""
    found: dict[str, Any] = {"id": row.id, "label": row.label or None}
    if isinstance(outcome, Failure):
        return found | {"error_title": outcome.title, "error_detail": " ".join(outcome.detail.splitlines())}
    key = outcome.key_missing
    found |= {"polarity": outcome.polarity, "confidence": outcome.confidence}
    found |= {f"{PROBABILITY}{name}": p for name, p in outcome.probabilities.items()}
    for name, use in outcome.modalities:
        found |= {f"{name}_status": use.status, f"{name}_reason": use.reason}
    found["text_source"] = outcome.modalities.text.source
    if (transcript := outcome.modalities.text.transcript) is not None:
        # A line of results is a line of the file.
        found["transcribed_text"] = " ".join(transcript.text.split())
        found["transcribed_confidence"] = transcript.confidence
    return found | {
        "key_missing_detected": key.detected,
        "key_missing_modalities": key.modalities,
        "key_missing_score": key.score,
        "key_missing_threshold": key.threshold,
        "polarity_full": key.polarity_full,
        "polarity_available": key.polarity_available,
        "warnings": [warning.code for warning in outcome.warnings],
    }


class Results:
    """A file with a line for each row; created by `open_results`.

    A line is written as soon as its row is answered, so a process may be killed at any time: the next one removes a
    line that is incomplete, and does not write a row of `done` again.

    Args:
        path: `.csv`, `.jsonl` or `.parquet`. Parquet has no lines: they are kept in another file, which `finish` turns
            into the Parquet file.
        model: the weights that answer.

    Raises:
        ConfigError: the file cannot be written, is not one of results of these weights, or pyarrow is missing.
    """

    def __init__(self, path: Path, model: ModelName) -> None:
        self.path, self.columns = path, columns_of(model.classes)
        self.done: set[str] = set()
        """Ids of the rows that the file has."""
        self.failures = 0
        """Rows of the file without an answer."""
        self._model, self._csv = f"{model.name} {model.version}", path.suffix == ".csv"
        self._lines = path
        if path.suffix == ".parquet":
            _require_pyarrow()
            self._lines = path.with_name(f"{path.name}.partial.jsonl")
            if path.exists() and not self._lines.exists():
                _lines_of_parquet(path, self._lines)
        try:
            self._file = self._lines.open("ab")
        except OSError as error:
            raise ConfigError(f"{self._lines} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file.truncate(self._read_lines())
        except BlockingIOError:
            self.close()
            raise ConfigError(f"another process is writing {self._lines}") from None
        except ConfigError:
            self.close()
            raise
        if self._csv and not self._lines.stat().st_size:
            self._append(self._cells(self.columns))

    def write(self, row: Row, outcome: Prediction | Failure) -> None:
        """Write the line of a row.

        Raises:
            OSError: the disk is full.
        """
        record = dict.fromkeys(self.columns) | record_of(row, outcome) | {"model": self._model}
        if self._csv:
            self._append(self._cells([_cell(record[column]) for column in self.columns]))
        else:
            self._append(json.dumps(record, ensure_ascii=False) + "\n")
        self.done.add(row.id)
        self.failures += isinstance(outcome, Failure)

    def finish(self) -> None:
        """Write the Parquet file, if that is the format; every row has been written."""
        if self._lines == self.path:
            return
        from pyarrow import parquet

        unfinished = self.path.with_name(f"{self.path.name}.partial")
        schema = schema_of(self.columns)
        with self._lines.open("rb") as lines, parquet.ParquetWriter(unfinished, schema) as writer:
            for records in _groups(lines):
                writer.write_table(_table(records, schema))
        unfinished.replace(self.path)
        self._lines.unlink()

    def close(self) -> None:
        """Close the file, which ends the lock."""
        self._file.close()

    def _append(self, line: str) -> None:
        self._file.write(line.encode(errors="backslashreplace"))  # a detail may quote a file name that is not UTF-8
        self._file.flush()

    def _cells(self, cells: Sequence[str]) -> str:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        return line.getvalue()

    def _read_lines(self) -> int:
        """Note the rows of the file; return the number of bytes of its complete lines.

        Raises:
            ConfigError: a complete line is none of these results.
        """
        end = 0
        with self._lines.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                if self._csv and number == 1:
                    if line.decode(errors="replace") != self._cells(self.columns):
                        raise self._other(number, "its columns are not those of these results")
                    continue
                record = self._parse(number, line)
                if record["model"] != self._model:
                    raise self._other(number, f"it was written with other weights: {record['model']}")
                self.done.add(record["id"])
                self.failures += bool(record["error_title"])
        return end

    def _parse(self, number: int, line: bytes) -> Record:
        try:
            if not self._csv:
                record = json.loads(line)
            elif len(cells := next(csv.reader([line.decode()], strict=True))) == len(self.columns):
                record = dict(zip(self.columns, cells, strict=True))
            else:
                record = None
        except (ValueError, csv.Error):
            record = None
        if not isinstance(record, dict) or tuple(record) != self.columns or not isinstance(record["id"], str):
            raise self._other(number, "it is no line of these results")
        return record

    def _other(self, number: int, why: str) -> ConfigError:
        return ConfigError(
            f"{self._lines} exists, and line {number} shows that {why}; remove it or choose another --out"
        )


@contextmanager
def open_results(path: Path, model: ModelName) -> Iterator[Results]:
    """Open a file of results to go on with it; see `Results`."""
    results = Results(path, model)
    try:
        yield results
    finally:
        results.close()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(value) if isinstance(value, list) else str(value)


def _require_pyarrow() -> None:
    if find_spec("pyarrow") is None:
        raise ConfigError("a Parquet file needs the package pyarrow: pip install 'emmr[parquet]'")


def schema_of(columns: Sequence[str]) -> "pa.Schema":
    """Return the schema of a Parquet file with these columns."""
    import pyarrow as pa

    def kind(column: str) -> pa.DataType:
        if column in LISTS:
            return pa.list_(pa.string())
        if column in FLAGS:
            return pa.bool_()
        return pa.float64() if column in NUMBERS or column.startswith(PROBABILITY) else pa.string()

    return pa.schema([(column, kind(column)) for column in columns])


def _table(records: Sequence[Record], schema: "pa.Schema") -> "pa.Table":
    import pyarrow as pa

    return pa.Table.from_pylist(records, schema=schema)


def _groups(lines: Iterator[bytes]) -> Iterator[list[Record]]:
    while group := [json.loads(line) for line in islice(lines, ROW_GROUP)]:
        yield group


def _lines_of_parquet(path: Path, lines: Path) -> None:
    """Write the rows of a Parquet file as JSON lines.

    Raises:
        ConfigError: not a Parquet file.
    """
    import pyarrow as pa
    from pyarrow import parquet

    unfinished = lines.with_name(f"{lines.name}.new")
    try:
        with parquet.ParquetFile(path) as file, unfinished.open("w", encoding="utf-8") as written:
            for group in file.iter_batches(ROW_GROUP):
                written.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in group.to_pylist())
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path} exists, and is not a Parquet file that can be read: {error}") from error
    unfinished.replace(lines)
