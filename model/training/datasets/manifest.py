"""A manifest: one's own clips, listed in a CSV or JSON-lines file.

For: training on a folder of recordings with one command.
Does not know: features; only whether the files it names are there.

Columns (or JSON keys): `id`, `split` (train, val or test), `text`, `audio` and `openface` (files, relative to the
manifest), `label`. Any cell but the label may be empty: an empty text, audio or openface is a modality that this
utterance does not have, and an empty id becomes `line-<n>`. A split column that is empty throughout is drawn, 80/10/10
within each label, by a hash of the ids: the same on every run and machine, whatever the order of the rows.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

import numpy as np

from model.errors import CorpusError
from model.modality import Modality
from model.training.datasets.base import (
    Example,
    OpenFaceSource,
    SoundSource,
    Source,
    Split,
    TextSource,
    Unclassed,
)
from model.training.datasets.tables import Row, read_content, read_table

COLUMNS: Final = ("id", "split", "text", "audio", "openface", "label")
CLASS_COUNTS: Final = (2, 3, 4, 7)
POLARITY_ORDER: Final = ("negative", "neutral", "positive")
JSON_LINES_SUFFIXES: Final = (".jsonl", ".ndjson", ".json")
SPLITS: Final[tuple[Split, ...]] = ("train", "val", "test")

_DRAW_SEED: Final = b"emmr-manifest-split-1"  # part of what the split is a function of: never change it
_DRAWN_IN_TURN: Final[tuple[Split, ...]] = ("train",) * 4 + ("val",) + ("train",) * 4 + ("test",)  # 80/10/10


@dataclass(frozen=True, slots=True)
class _Entry:
    row: Row
    split: str
    example: Example


class ManifestCorpus:
    """Utterances listed in a file, with whatever modalities each has.

    Args:
        path: `.csv`, or JSON lines (`.jsonl`, `.ndjson`, `.json`): one object a line with the same keys; an absent or
            null key is an empty cell.

    Raises:
        CorpusError: names the file and line of whatever is wrong: a column that is missing, an id that is there twice,
            an unknown split or one given for some rows only, an empty label, a row without any modality, a file that
            is not there, a class that training does not hold, a number of classes that is not 2, 3, 4 or 7, a part
            without examples.
    """

    name: str = "manifest"

    def __init__(self, path: Path) -> None:
        entries = _with_splits(path, _read_entries(path))
        self.classes = _classes(path, entries)
        self._splits: dict[Split, tuple[Example, ...]] = {
            split: tuple(entry.example for entry in entries if entry.split == split) for split in SPLITS
        }
        for split in ("train", "val"):
            if not self._splits[split]:
                raise CorpusError(path, None, f"no row is in the {split} split")

    def examples(self, split: Split) -> Sequence[Example]:
        """The examples of a part, in file order; the test part may be empty, `ood` always is."""
        return self._splits.get(split, ())

    def unclassed(self) -> Sequence[Unclassed]:
        """Nothing: every row has a class."""
        return ()

    def unimodal(self, split: Split) -> Sequence[Example]:
        """Nothing: every row is an example already."""
        del split
        return ()

    def redraw(self, rng: np.random.Generator) -> Sequence[Example]:
        """The training part: recordings of one's own are paired already."""
        del rng  # there is nothing to draw
        return self._splits["train"]


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
            yield Row(path, line, _json_cells(path, line, raw))


def _json_cells(path: Path, line: int, raw: bytes) -> dict[str, str]:
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
    label = row["label"].strip()
    if not label:
        raise row.fault("the label is empty")
    split = row["split"].strip()
    if split and split not in SPLITS:
        raise row.fault(f"unknown split {split!r}; known are {', '.join(SPLITS)}")
    sources: dict[Modality, Source] = {}
    if row["text"].strip():
        sources[Modality.TEXT] = TextSource(row["text"])
    if row["audio"].strip():
        sources[Modality.AUDIO] = SoundSource(_file(row, "audio"))
    if row["openface"].strip():
        sources[Modality.VISUAL] = OpenFaceSource(_file(row, "openface"))
    if not sources:
        raise row.fault("text, audio and openface are all empty")
    return _Entry(row, split, Example(row["id"].strip() or f"line-{row.line}", label, sources))


def _file(row: Row, column: str) -> Path:
    path = row.path.parent / row[column].strip()
    if not path.is_file():
        raise row.fault(f"{column} file {row[column].strip()!r} does not exist")
    return path


def _with_splits(path: Path, entries: Sequence[_Entry]) -> Sequence[_Entry]:
    """Draw the splits when no row has one.

    Raises:
        CorpusError: some rows have one and others not.
    """
    empty = [entry for entry in entries if not entry.split]
    if not empty:
        return entries
    if len(empty) < len(entries):
        raise CorpusError(path, empty[0].row.line, "the split is empty here, but not in every row")
    return _draw_splits(entries)


def _draw_splits(entries: Sequence[_Entry]) -> Sequence[_Entry]:
    drawn: dict[str, Split] = {}
    turn = 0
    ordered = sorted(entries, key=lambda entry: (entry.example.label, _draw_key(entry.example.id)))
    for _, group in groupby(ordered, key=lambda entry: entry.example.label):
        for position, entry in enumerate(group):
            if position == 0:  # however rare its label, training sees it
                drawn[entry.example.id] = "train"
            else:
                drawn[entry.example.id] = _DRAWN_IN_TURN[turn % len(_DRAWN_IN_TURN)]
                turn += 1
    return [_Entry(entry.row, drawn[entry.example.id], entry.example) for entry in entries]


def _draw_key(example_id: str) -> bytes:
    return hashlib.sha256(_DRAW_SEED + example_id.encode()).digest()


def _classes(path: Path, entries: Sequence[_Entry]) -> tuple[str, ...]:
    """The classes, in polarity's order where polarity's names are used and sorted otherwise."""
    trained = {entry.example.label for entry in entries if entry.split == "train"}
    for entry in entries:
        if trained and entry.example.label not in trained:
            raise entry.row.fault(f"label {entry.example.label!r} is in no row of the train split")
    counts = Counter(entry.example.label for entry in entries)
    if len(counts) not in CLASS_COUNTS:
        few = ", ".join(f"{label!r} ({count})" for label, count in sorted(counts.items())[:10])
        raise CorpusError(path, None, f"{len(counts)} different labels where 2, 3, 4 or 7 are possible: {few}")
    if set(counts) <= set(POLARITY_ORDER):
        return tuple(label for label in POLARITY_ORDER if label in counts)
    return tuple(sorted(counts))
