"""A manifest: clips listed in a CSV or JSON-lines file with the columns (or keys) of `COLUMNS`."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, groupby
from pathlib import Path, PureWindowsPath
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
from model.training.datasets.exports import read_export
from model.training.datasets.labels import read_labels
from model.training.datasets.tables import Row, read_content

COLUMNS: Final = ("id", "split", "group", "text", "audio", "openface", "label")
CONTENT: Final = ("text", "audio", "openface")
CLASS_COUNTS: Final = (2, 3, 4, 7)
JSON_LINES_SUFFIXES: Final = (".jsonl", ".ndjson", ".json")
PARTS: Final = SPLITS[:3]
SHARES: Final[Mapping[Split, float]] = {"train": 0.8, "val": 0.1, "test": 0.1}
"""Of the rows, where the parts are drawn."""
FEW: Final = 10
"""Rows of a class below which its training, or a figure on it, is not reliable."""

_DRAW_SEED: Final = b"emmr-manifest-split-1"  # part of what the split is a function of: never change it
_DRAWN_IN_TURN: Final[tuple[Split, ...]] = ("train",) * 4 + ("val",) + ("train",) * 4 + ("test",)  # 80/10/10


@dataclass(frozen=True, slots=True)
class _Entry:
    """A row, its split and group (empty where the cell is) and its example."""

    row: Row
    split: str
    group: str
    example: Example


class ManifestCorpus(FixedCorpus):
    """Utterances listed in a file, each with the modalities that its row names.

    Any cell but the label may be empty, and any column but the label absent. `audio` and `openface` are files, relative
    to the manifest; an empty text, audio or openface is a modality that the utterance does not have; an empty id
    becomes `line-<n>`. Labels: see `read_labels`.

    Where the split column is empty throughout, splits are drawn, 80/10/10 within each label, by a hash of the ids: the
    same on every run and machine, whatever the order of the rows. Rows of one `group`, such as a speaker, then come
    into one part; an empty group is a row alone.

    Args:
        path: a table as spreadsheets export it (see `read_export`), or JSON lines (`.jsonl`, `.ndjson`, `.json`): one
            object a line with the same keys; an absent or null key is an empty cell.

    Attributes:
        notices: what a user should be warned of: how the file was read, few rows of a class, persons in several parts.

    Raises:
        CorpusError: names the file and line of the error: no column of labels or of content, an id that is listed
            twice, an unknown split or one given for some rows only, a label that cannot be read, a row without any
            modality, a file that does not exist, a class without training examples, a number of classes that is not 2,
            3, 4 or 7, a training or validation part without examples, groups that cannot be divided.
    """

    name: str = "manifest"

    def __init__(self, path: Path) -> None:
        entries, self.notices = _read_entries(path)
        if not any(entry.split for entry in entries):
            if not any(entry.group for entry in entries):
                self.notices.append(
                    "no column group: clips of one person may come into several parts, and figures are then better than"
                    " those on unseen persons"
                )
            entries = _draw_splits(path, entries)
        self.classes = _classes(path, entries)
        super().__init__({part: [entry.example for entry in entries if entry.split == part] for part in PARTS})
        for split in PARTS[:2]:
            if not self._splits[split]:
                raise CorpusError(path, None, f"no row is in the {split} split")
        self.notices += [*_groups_in_several_parts(entries), *self._few()]

    def counts(self) -> dict[str, dict[Split, int]]:
        """Class → part → rows."""
        found = {part: Counter(example.label for example in self._splits[part]) for part in PARTS}
        return {name: {part: found[part][name] for part in PARTS} for name in self.classes}

    def _few(self) -> Iterator[str]:
        for name, parts in self.counts().items():
            if parts["train"] < FEW:
                yield f"class {name!r} has {parts['train']} training rows, and {FEW} are the least to learn it from"
            for part in PARTS[1:]:
                if self._splits[part] and not parts[part]:
                    yield f"class {name!r} has no row in the {part} part, so no figure on that part includes it"


def _read_entries(path: Path) -> tuple[list[_Entry], list[str]]:
    notices: list[str] = []
    if path.suffix.lower() in JSON_LINES_SUFFIXES:
        rows = list(_json_rows(path))
    else:
        columns, rows, notices = read_export(path, COLUMNS)
        if "label" not in columns:
            raise CorpusError(path, 1, "missing column: label")
        if not set(columns) & set(CONTENT):
            raise CorpusError(path, 1, f"has none of the columns {', '.join(CONTENT)}")
        rows = [replace(row, cells={column: row.cells.get(column, "") for column in COLUMNS}) for row in rows]
    if not rows:
        raise CorpusError(path, None, "holds no rows")
    labels, read = read_labels(rows)
    entries: dict[str, _Entry] = {}
    for row, label in zip(rows, labels, strict=True):
        entry = _entry(row, label)
        first = entries.setdefault(entry.example.id, entry)
        if first is not entry:
            raise row.fault(f"id {entry.example.id!r} is already on line {first.row.line}")
    empty = [entry for entry in entries.values() if not entry.split]
    if 0 < len(empty) < len(entries):
        raise CorpusError(path, empty[0].row.line, "the split is empty here, but not in every row")
    return list(entries.values()), [*notices, *read]


def _json_rows(path: Path) -> Iterator[Row]:
    for line, raw in enumerate(read_content(path).split(b"\n"), start=1):
        if raw.strip():
            yield Row(path, line, read_json_cells(path, line, raw))


def read_json_cells(path: Path, line: int, raw: bytes, columns: Sequence[str] = COLUMNS) -> dict[str, str]:
    """Return the cells of one line of JSON: every column, an empty cell where the key is absent or null.

    Args:
        path: named in errors.
        line: of the file, from 1.
        raw: the line.
        columns: the keys that it may have.

    Raises:
        CorpusError: not a JSON object with these keys, or a value that is neither a string nor a whole number; a label
            may be any number.
    """
    try:
        record = json.loads(raw.decode("utf-8-sig" if line == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise CorpusError(path, line, "is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise CorpusError(path, line, f"is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise CorpusError(path, line, "is not a JSON object")
    unknown = sorted(set(record) - set(columns))
    if unknown:
        raise CorpusError(path, line, f"unknown key: {', '.join(unknown)}")
    cells = {}
    for column in columns:
        value = record.get(column)
        # Numbers may stand for ids and labels: 3 is what a spreadsheet makes of "3". A label may be a score.
        if isinstance(value, float) and column == "label" and math.isfinite(value):
            value = f"{value:.10f}"
        if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
            raise CorpusError(path, line, f"{column} is neither a string nor a whole number")
        cells[column] = "" if value is None else str(value)
        if any("\ud800" <= character <= "\udfff" for character in cells[column]):
            raise CorpusError(path, line, f"{column} holds half of a surrogate pair, which is no character")
    return cells


def _entry(row: Row, label: str) -> _Entry:
    row = replace(row, cells={column: cell if column == "text" else cell.strip() for column, cell in row.cells.items()})
    split = replace(row, cells={"split": row["split"].lower()}).split(PARTS) if row["split"] else ""
    sources: dict[Modality, Source] = {}
    if row["text"].strip():
        sources[Modality.TEXT] = TextSource(row["text"])
    if row["audio"]:
        sources[Modality.AUDIO] = SoundSource(_file(row, "audio"))
    if row["openface"]:
        sources[Modality.VISUAL] = OpenFaceSource(_file(row, "openface"))
    if not sources:
        raise row.fault("text, audio and openface are all empty")
    # The label of an utterance with one modality is that of the modality.
    alone = dict.fromkeys(sources, label) if len(sources) == 1 else {}
    return _Entry(row, split, row["group"], Example(row["id"] or f"line-{row.line}", label, sources, alone))


def content_path(row: Row, column: str) -> Path:
    """The file that a cell names, relative to the list; with backslashes, one of Windows where no file has that name.

    Raises:
        CorpusError: an absolute path of Windows, or a NUL byte.
    """
    cell, folder = row[column].strip(), row.path.parent
    if "\0" in cell:
        raise row.fault(f"{column} file {cell!r} has a NUL byte in its name")
    if "\\" not in cell or _is_file(folder / cell):
        return folder / cell
    windows = PureWindowsPath(cell)
    if windows.anchor:
        raise row.fault(f"{column} file {cell!r} is an absolute path of Windows: give it relative to the manifest")
    return folder / windows.as_posix()


def _file(row: Row, column: str) -> Path:
    path = content_path(row, column)
    if not _is_file(path):
        raise row.fault(f"{column} file {row[column]!r} does not exist")
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _draw_splits(path: Path, entries: Sequence[_Entry]) -> list[_Entry]:
    drawn = _drawn_by_group(path, entries) if any(entry.group for entry in entries) else _drawn_by_label(entries)
    return [replace(entry, split=drawn[entry.example.id]) for entry in entries]


def _drawn_by_label(entries: Sequence[_Entry]) -> dict[str, Split]:
    drawn: dict[str, Split] = {}
    turns = cycle(_DRAWN_IN_TURN)
    ordered = sorted(entries, key=lambda entry: (entry.example.label, _draw_key(entry.example.id)))
    for _, group in groupby(ordered, key=lambda entry: entry.example.label):
        for position, entry in enumerate(group):  # the first of a label is always in training, however rare the label
            drawn[entry.example.id] = "train" if position == 0 else next(turns)
    return drawn


def _drawn_by_group(path: Path, entries: Sequence[_Entry]) -> dict[str, Split]:
    """Draw whole groups, the large ones first, each into the part that then is nearest to its share of every label.

    Raises:
        CorpusError: one group has all rows, or all of a label but what training needs, so that none is left.
    """
    groups: dict[str, list[_Entry]] = {}
    for entry in entries:  # an empty group is a row alone; a space begins no name of a group
        groups.setdefault(entry.group or f" {entry.example.id}", []).append(entry)
    labels = {name: Counter(entry.example.label for entry in own) for name, own in groups.items()}
    total = Counter(entry.example.label for entry in entries)
    ordered = sorted(groups, key=lambda name: (-len(groups[name]), _draw_key(name)))
    parts: dict[Split, Counter[str]] = {part: Counter() for part in SHARES}
    placed: dict[str, Split] = {}

    def place(name: str, part: Split) -> None:
        placed[name] = part
        parts[part] += labels[name]

    def misfit(name: str, part: Split) -> float:
        """How much worse the part's shares of the labels become; filling one that has too few is negative."""
        share, before = SHARES[part], parts[part]
        return sum(
            ((before[x] + labels[name][x]) / total[x] - share) ** 2 - (before[x] / total[x] - share) ** 2 for x in total
        ) / (share * len(groups[name]))

    for label in sorted(total):  # training has every label, however rare
        if not parts["train"][label]:
            place(next(name for name in ordered if labels[name][label]), "train")
    for name in ordered:
        if name not in placed:
            place(name, min(SHARES, key=lambda part: misfit(name, part)))
    for part in ("val", "test"):
        spare = [
            name
            for name in reversed(ordered)
            if placed[name] == "train" and all(parts["train"][x] > count for x, count in labels[name].items())
        ]
        if part not in placed.values() and spare:
            parts["train"] -= labels[spare[0]]
            place(spare[0], part)
    if "val" not in placed.values():
        detail = "the groups cannot be divided: training needs every class, and validation a group that is not in it"
        raise CorpusError(path, None, f"{detail}; fill in the column split instead")
    return {entry.example.id: placed[name] for name, own in groups.items() for entry in own}


def _groups_in_several_parts(entries: Sequence[_Entry]) -> Iterator[str]:
    parts: dict[str, set[str]] = {}
    for entry in entries:
        if entry.group:
            parts.setdefault(entry.group, set()).add(entry.split)
    if several := [name for name, found in parts.items() if len(found) > 1]:
        shown = ", ".join(map(repr, several[:5])) + (", …" if len(several) > 5 else "")
        yield f"{len(several)} groups are in several parts by the column split, for example {shown}"


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
