"""A manifest: clips listed in a CSV or JSON-lines file with the columns (or keys) of `COLUMNS`."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, groupby
from pathlib import Path
from typing import Final

from model.errors import CorpusError
from model.modality import Modality
from model.training.datasets.base import (
    CLASSES,
    SPLITS,
    Example,
    FixedCorpus,
    OpenFaceSource,
    SoundSource,
    Source,
    Split,
    TextSource,
)
from model.training.datasets.tables import Row, read_content, read_table

COLUMNS: Final = ("id", "split", "text", "audio", "openface", "label")
CLASS_COUNTS: Final = (2, 3, 4, 7)
JSON_LINES_SUFFIXES: Final = (".jsonl", ".ndjson", ".json")
PARTS: Final = SPLITS[:3]

_DRAW_SEED: Final = b"emmr-manifest-split-1"  # part of what the split is a function of: never change it
_DRAWN_IN_TURN: Final[tuple[Split, ...]] = ("train",) * 4 + ("val",) + ("train",) * 4 + ("test",)  # 80/10/10


@dataclass(frozen=True, slots=True)
class _Entry:
    """A row, its split (empty where the cell is) and its example."""

    row: Row
    split: str
    example: Example


class ManifestCorpus(FixedCorpus):
    """Utterances listed in a file, each with the modalities that its row names.

    `audio` and `openface` are files, relative to the manifest. Any cell but the label may be empty: an empty text,
    audio or openface is a modality that the utterance does not have, and an empty id becomes `line-<n>`. Where the
    split column is empty throughout, splits are drawn, 80/10/10 within each label, by a hash of the ids: the same on
    every run and machine, whatever the order of the rows.

    Args:
        path: `.csv`, or JSON lines (`.jsonl`, `.ndjson`, `.json`): one object a line with the same keys; an absent or
            null key is an empty cell.

    Raises:
        CorpusError: names the file and line of the error: a column that is missing, an id that is listed twice, an
            unknown split or one given for some rows only, an empty label, a row without any modality, a file that does
            not exist, a class without training examples, a number of classes that is not 2, 3, 4 or 7, a training or
            validation part without examples.
    """

    name: str = "manifest"

    def __init__(self, path: Path) -> None:
        entries = _with_splits(path, _read_entries(path))
        self.classes = _classes(path, entries)
        super().__init__({part: [entry.example for entry in entries if entry.split == part] for part in PARTS})
        for split in PARTS[:2]:
            if not self._splits[split]:
                raise CorpusError(path, None, f"no row is in the {split} split")


def _read_entries(path: Path) -> list[_Entry]:
    rows = _json_rows(path) if path.suffix.lower() in JSON_LINES_SUFFIXES else read_table(path, COLUMNS)
    entries: dict[str, _Entry] = {}
    for row in rows:
        entry = _entry(row)
        first = entries.setdefault(entry.example.id, entry)
        if first is not entry:
            raise row.fault(f"id {entry.example.id!r} is already on line {first.row.line}")
    if not entries:
        raise CorpusError(path, None, "holds no rows")
    return list(entries.values())


def _json_rows(path: Path) -> Iterator[Row]:
    for line, raw in enumerate(read_content(path).split(b"\n"), start=1):
        if raw.strip():
            yield Row(path, line, read_json_cells(path, line, raw))


def read_json_cells(path: Path, line: int, raw: bytes) -> dict[str, str]:
    """Return the cells of one line of JSON: every column of `COLUMNS`, an empty cell where the key is absent or null.

    Raises:
        CorpusError: not a JSON object with these keys, or a value that is neither a string nor a whole number.
    """
    try:
        record = json.loads(raw.decode("utf-8-sig" if line == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise CorpusError(path, line, "is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise CorpusError(path, line, f"is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise CorpusError(path, line, "is not a JSON object")
    unknown = sorted(set(record) - set(COLUMNS))
    if unknown:
        raise CorpusError(path, line, f"unknown key: {', '.join(unknown)}")
    cells = {}
    for column in COLUMNS:
        value = record.get(column)
        # Numbers may stand for ids and labels: 3 is what a spreadsheet makes of "3".
        if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
            raise CorpusError(path, line, f"{column} is neither a string nor a whole number")
        cells[column] = "" if value is None else str(value)
        if any("\ud800" <= character <= "\udfff" for character in cells[column]):
            raise CorpusError(path, line, f"{column} holds half of a surrogate pair, which is no character")
    return cells


def _entry(row: Row) -> _Entry:
    row = replace(row, cells={column: cell if column == "text" else cell.strip() for column, cell in row.cells.items()})
    label = row.text("label")
    split = row.split(PARTS) if row["split"] else ""
    sources: dict[Modality, Source] = {}
    if row["text"].strip():
        sources[Modality.TEXT] = TextSource(row["text"])
    if row["audio"]:
        sources[Modality.AUDIO] = SoundSource(_file(row, "audio"))
    if row["openface"]:
        sources[Modality.VISUAL] = OpenFaceSource(_file(row, "openface"))
    if not sources:
        raise row.fault("text, audio and openface are all empty")
    return _Entry(row, split, Example(row["id"] or f"line-{row.line}", label, sources))


def _file(row: Row, column: str) -> Path:
    path = row.path.parent / row[column]
    if not path.is_file():
        raise row.fault(f"{column} file {row[column]!r} does not exist")
    return path


def _with_splits(path: Path, entries: Sequence[_Entry]) -> Sequence[_Entry]:
    """Draw the splits when no row has one.

    Raises:
        CorpusError: some rows have one and others not.
    """
    empty = [entry for entry in entries if not entry.split]
    if 0 < len(empty) < len(entries):
        raise CorpusError(path, empty[0].row.line, "the split is empty here, but not in every row")
    if not empty:
        return entries
    drawn: dict[str, Split] = {}
    turns = cycle(_DRAWN_IN_TURN)
    ordered = sorted(entries, key=lambda entry: (entry.example.label, _draw_key(entry.example.id)))
    for _, group in groupby(ordered, key=lambda entry: entry.example.label):
        for position, entry in enumerate(group):  # the first of a label is always in training, however rare the label
            drawn[entry.example.id] = "train" if position == 0 else next(turns)
    return [replace(entry, split=drawn[entry.example.id]) for entry in entries]


def _draw_key(example_id: str) -> bytes:
    return hashlib.sha256(_DRAW_SEED + example_id.encode()).digest()


def _classes(path: Path, entries: Sequence[_Entry]) -> tuple[str, ...]:
    """Return the classes: in the order of polarity where all are polarities, sorted otherwise."""
    trained = {entry.example.label for entry in entries if entry.split == "train"}
    for entry in entries:
        if trained and entry.example.label not in trained:
            raise entry.row.fault(f"label {entry.example.label!r} is in no row of the train split")
    counts = Counter(entry.example.label for entry in entries)
    if len(counts) not in CLASS_COUNTS:
        few = ", ".join(f"{label!r} ({count})" for label, count in sorted(counts.items())[:10])
        raise CorpusError(path, None, f"{len(counts)} different labels where 2, 3, 4 or 7 are possible: {few}")
    return (
        tuple(label for label in CLASSES if label in counts) if counts.keys() <= set(CLASSES) else tuple(sorted(counts))
    )
