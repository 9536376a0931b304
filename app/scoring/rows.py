"""The rows of a manifest or folder that `emmr score` answers, and the recordings of one for `emmr timeline`."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from model.errors import CorpusError
from model.training.datasets.exports import open_export
from model.training.datasets.manifest import COLUMNS, CONTENT, JSON_LINES_SUFFIXES, content_path, read_json_cells
from model.training.datasets.tables import Row as Record

FACE_ID: Final = "face_id"
RECORDING_CONTENT: Final = ("audio", "transcript", "openface")
AUDIO_SUFFIXES: Final = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".webm", ".m4a", ".mp4")
SUFFIXES: Final[Mapping[str, str]] = {".txt": "text", ".csv": "openface", **dict.fromkeys(AUDIO_SUFFIXES, "audio")}
"""Suffix of a file in a folder → its part."""

_FACE_ID: Final = re.compile(r"(\d{1,9})(?:[.,]0{1,6})?", re.ASCII)
"""A whole number; a column with empty cells is written as 2.0 by pandas, and as 2,0 with a decimal comma."""


@dataclass(frozen=True, slots=True)
class Row:
    """One utterance to score, or one recording.

    Args:
        id: different for each row.
        label: of the manifest; empty without one.
        text: the words, or the file that contains them; the transcript of a recording.
        audio: the sound file.
        openface: the OpenFace CSV.
        face_id: the face in it to follow; None for the most confident one.
        fault: why the row cannot be scored; None if it can be tried.
        line: of the manifest; its position in a folder.
    """

    id: str
    label: str = ""
    text: str | Path | None = None
    audio: Path | None = None
    openface: Path | None = None
    face_id: int | None = None
    fault: str | None = None
    line: int = field(default=0, compare=False)


def read_rows(
    source: Path, leave_out: Collection[Path] = (), notify: Callable[[str], object] = lambda _: None
) -> Iterator[Row]:
    """Yield the rows of a manifest or folder; a row that cannot be read has a fault, and the others follow.

    A manifest is a table as training reads it (`model.training.datasets.exports.open_export`), or JSON lines
    (`.jsonl`, `.ndjson`, `.json`), with any of the columns of `model.training.datasets.manifest.COLUMNS` and face_id,
    and at least one of text, audio and openface; files are relative to it.
    In a folder, and the folders in it, files of the same name without the suffix are one row.

    Args:
        source: the file or folder.
        leave_out: files of the folder that are no input.
        notify: called after the last row with each notice of how the table was read.

    Raises:
        CorpusError: the source cannot be read, has no rows, or its header has none of the columns.
    """
    if source.is_dir():
        rows = _folder_rows(source, {path.absolute() for path in leave_out})
    else:
        rows = _manifest_rows(source, (*COLUMNS, FACE_ID), CONTENT, _row, notify)
    yield from _with_valid_ids(source, rows)


def read_recordings(source: Path, notify: Callable[[str], object] = lambda _: None) -> Iterator[Row]:
    """Yield the recordings of a manifest; one that cannot be read has a fault, and the others follow.

    The manifest is a table or JSON lines as in `read_rows`, with the columns id, audio, transcript and openface, any of
    which may be absent, but not all of the last three.

    Args:
        source: the file.
        notify: called after the last row with each notice of how the table was read.

    Raises:
        CorpusError: as `read_rows`.
    """
    rows = _manifest_rows(source, ("id", *RECORDING_CONTENT), RECORDING_CONTENT, _recording, notify)
    yield from _with_valid_ids(source, rows)


def _with_valid_ids(source: Path, rows: Iterator[tuple[int, Row]]) -> Iterator[Row]:
    """Yield the rows, each with its line and an id of its own; raises as `read_rows`."""
    ids = set[str]()
    try:
        for line, found in rows:
            row = _with_valid_id(replace(found, line=line), line, ids)
            ids.add(row.id)
            yield row
    except OSError as error:
        raise CorpusError(source, None, f"cannot be read: {error.strerror}") from error
    if not ids:
        raise CorpusError(source, None, "holds no rows")


def _with_valid_id(row: Row, line: int, ids: Collection[str]) -> Row:
    """Return the row; with a fault, and an id made of its line, if its own id or label cannot be written."""
    try:
        (row.id + row.label).encode()
        fault = "the id is that of a row before" if row.id in ids else None
    except UnicodeEncodeError:
        fault = "the id or the label is not UTF-8"
    # A line of results is a line of the file.
    if not set("\r\n").isdisjoint(row.id + row.label):
        fault = "the id or the label holds a line break"
    if fault is None and row.id:
        return row
    unused = f"line-{line}"
    while unused in ids:
        unused += "*"
    return replace(row, id=unused) if fault is None else Row(unused, fault=row.fault or fault)


def _manifest_rows(
    path: Path,
    columns: Sequence[str],
    content: Sequence[str],
    parse: Callable[[Record], Row],
    notify: Callable[[str], object],
) -> Iterator[tuple[int, Row]]:
    """Yield each record of a table or of JSON lines as `parse` returns it, or with its fault, and its line."""
    if path.suffix.lower() in JSON_LINES_SUFFIXES:
        yield from _json_rows(path, columns, parse)
        return
    with open_export(path, columns) as export:
        if not set(export.columns) & set(content):
            raise CorpusError(path, 1, f"has none of the columns {', '.join(content)}")
        for record in export.records:
            if isinstance(record, CorpusError):
                yield record.row or 0, _unreadable(record)
            else:
                yield record.line, parse(record)
        for notice in export.notices:
            notify(notice)


def _json_rows(path: Path, columns: Sequence[str], parse: Callable[[Record], Row]) -> Iterator[tuple[int, Row]]:
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                yield line, parse(Record(path, line, read_json_cells(path, line, raw, columns)))
            except CorpusError as error:
                yield line, _unreadable(error)


def _unreadable(error: CorpusError) -> Row:
    return Row("", fault=f"line {error.row}: {error.detail}")


def _row(record: Record) -> Row:
    found = {column: record.cells.get(column, "").strip() for column in ("id", "label", *CONTENT, FACE_ID)}
    parts = bool(found["text"]), bool(found["audio"]), bool(found["openface"])
    face, fault = _FACE_ID.fullmatch(found[FACE_ID]), _fault_of(parts, found[FACE_ID])
    try:
        audio, openface = (content_path(record, column) if found[column] else None for column in ("audio", "openface"))
    except CorpusError as error:
        return replace(_unreadable(error), id=found["id"], label=found["label"])
    text = record["text"] if found["text"] else None
    return Row(found["id"], found["label"], text, audio, openface, None if face is None else int(face[1]), fault)


def _recording(record: Record) -> Row:
    found = {column: record.cells.get(column, "").strip() for column in ("id", *RECORDING_CONTENT)}
    try:
        audio, transcript, openface = (
            content_path(record, column) if found[column] else None for column in RECORDING_CONTENT
        )
    except CorpusError as error:
        return replace(_unreadable(error), id=found["id"])
    given = audio or transcript or openface
    fault = None if given else "audio, transcript and openface are all empty"
    return Row(found["id"], text=transcript, audio=audio, openface=openface, fault=fault)


def _fault_of(parts: tuple[bool, bool, bool], face_id: str) -> str | None:
    if not any(parts):
        return "text, audio and openface are all empty"
    if not face_id:
        return None
    if not parts[2]:
        return "face_id chooses a face of openface, which is empty"
    return None if _FACE_ID.fullmatch(face_id) else f"face_id is not a whole number from 0 on: {face_id!r}"


def _folder_rows(folder: Path, leave_out: Collection[Path]) -> Iterator[tuple[int, Row]]:
    groups: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(folder.rglob("*")):
        part = SUFFIXES.get(path.suffix.lower())
        inside = path.relative_to(folder)
        hidden = any(name.startswith(".") for name in inside.parts)
        if part is not None and not hidden and path.is_file() and path.absolute() not in leave_out:
            groups.setdefault(inside.with_suffix("").as_posix(), {}).setdefault(part, []).append(path)
    for position, (name, parts) in enumerate(groups.items(), start=1):
        several = next((part for part, paths in parts.items() if len(paths) > 1), None)
        if several is None:
            text, audio, openface = (parts.get(part, [None])[0] for part in CONTENT)
            yield position, Row(name, "", text, audio, openface)
        else:
            suffixes = " and ".join(path.suffix for path in parts[several])
            yield position, Row(name, fault=f"several files are its {several}: {suffixes}")
