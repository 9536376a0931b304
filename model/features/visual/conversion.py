"""Action units of Py-Feat, LibreFace, AFFDEX and FACET (alone or in an iMotions export) → a table as OpenFace 2 writes.

The scales are mapped linearly to OpenFace's 0 to 5. No mapping was compared with OpenFace 2 on the same recordings.
"""

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, groupby
from pathlib import Path
from typing import Final, Literal, TextIO

from model.errors import UnsupportedFormat
from model.features.visual.table import ACTION_UNIT_COLUMNS, INTENSITIES, OCCURRENCES, corrupt
from model.features.visual.table_format import column_names, foreign_content, foreign_table, separator_of
from model.modality import Modality

MIN_INTENSITIES: Final = 12
"""Of OpenFace's 17 intensities that a table must have; the others become 0, and with fewer the face is another one."""
_PRESENT: Final = 1.0  # the least intensity at which FACS codes a unit as present ("A", trace)
_LIKELY: Final = 0.5  # probability from which a unit counts as present
_NO_NUMBER: Final = frozenset({"", "nan", "na", "n/a", "null", "none"})
_METADATA: Final = "#"  # first character of the lines before the header of an iMotions export

Scale = Literal["intensity", "probability", "percent", "evidence"]
_RANGES: Final[Mapping[Scale, tuple[float, float]]] = {
    "intensity": (0, 5),
    "probability": (0, 1),
    "percent": (0, 100),
    "evidence": (-math.inf, math.inf),  # log10 of the odds
}
Status = Literal["same scale", "rescaled", "from intensity", "from occurrence", "from AU43", "absent"]


@dataclass(frozen=True, slots=True)
class Tracker:
    """How a tool names its columns.

    Args:
        name: of the tool.
        marker: column that marks the converted table, a key of `table_format.CONVERTED`.
        scale: of the values in `units`.
        units: action unit → column of its intensity or probability, in lower case.
        occurrences: action unit → column of its occurrence, 0 or 1; others follow from `units`.
        confidence: column of the face detector's score in [0, 1].
        face: column whose cells end in the number of a face.
        frame: column of the frame's number; rows with the same one show several faces.
        time: column of the time, in milliseconds.
    """

    name: str
    marker: str
    scale: Scale
    units: Mapping[int, str]
    occurrences: Mapping[int, str] = field(default_factory=dict)
    confidence: str | None = None
    face: str | None = None
    frame: str | None = None
    time: str | None = None


# AU43 (eyes closed) stands in for AU45 (blink): the same movement, of another duration.
_EYES_CLOSED: Final = 43
_BLINK: Final = 45
_PY_FEAT: Final = (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 23, 24, 25, 26, 28, _EYES_CLOSED)
TRACKERS: Final = (
    Tracker(
        "Py-Feat",
        "converted_from_py_feat",
        "probability",
        {unit: f"au{unit:02d}" for unit in _PY_FEAT},
        confidence="facescore",
        face="identity",
        frame="frame",
    ),
    Tracker(
        "LibreFace",
        "converted_from_libreface",
        "intensity",
        {unit: f"au_{unit}_intensity" for unit in (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)},
        {unit: f"au_{unit}" for unit in (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)},
        frame="frame_idx",
        time="frame_time_in_ms",
    ),
    Tracker(
        "AFFDEX",
        "converted_from_affdex",
        "percent",
        {
            1: "inner brow raise",
            2: "brow raise",
            4: "brow furrow",
            5: "eye widen",
            6: "cheek raise",
            7: "lid tighten",
            9: "nose wrinkle",
            10: "upper lip raise",
            12: "smile",
            14: "dimpler",
            15: "lip corner depressor",
            17: "chin raise",
            20: "lip stretch",
            25: "mouth open",
            26: "jaw drop",
            28: "lip suck",
            _EYES_CLOSED: "eye closure",
        },
        time="timestamp",
    ),
    Tracker(
        "FACET",
        "converted_from_facet",
        "evidence",
        {
            unit: f"au{unit} evidence"
            for unit in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 28, _EYES_CLOSED)
        },
        time="timestamp",
    ),
)


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a conversion did.

    Args:
        tool: that measured the units.
        scale: of the tool's values.
        frames: rows written.
        without_face: of them, rows without values, which are written with `success` 0.
        other_faces: rows left out because another face of the same frame had a greater score.
        intensities: action unit → how its intensity came about.
        occurrences: the same of the occurrences.
    """

    tool: str
    scale: Scale
    frames: int
    without_face: int
    other_faces: int
    intensities: Mapping[int, Status]
    occurrences: Mapping[int, Status]


@dataclass(slots=True)
class _Row:
    """One row of the source, with OpenFace's 35 values `(35,)`, None where it has no face."""

    frame: str
    face: int | None
    time: float | None
    confidence: float
    values: list[float] | None


def convert(source: Path, out: TextIO, frames_per_second: float | None = None) -> Conversion:
    """Read a table of another tool and write the action units under OpenFace 2's names.

    Args:
        source: CSV, with commas, semicolons or tabs, in UTF-8 with or without a byte order mark.
        out: written as CSV, with a column that marks the table as converted.
        frames_per_second: gives times to a table without them.

    Raises:
        UnsupportedFormat: not a table of a known tool, or one with fewer than `MIN_INTENSITIES` of OpenFace's units.
        CorruptModality: a cell is no number, or lies outside the tool's scale; names line and column.
        OSError: the file cannot be read.
    """
    with source.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        names, separator, header_line = _header(file)
        tracker = _recognise(names)
        columns = {name.lower(): index for index, name in enumerate(names)}
        intensities = {unit: _intensity_status(tracker, columns, unit) for unit in INTENSITIES}
        occurrences = {unit: _occurrence_status(tracker, columns, unit) for unit in OCCURRENCES}
        measured = [unit for unit, status in intensities.items() if status not in {"absent", "from occurrence"}]
        if len(measured) < MIN_INTENSITIES:
            lacking = ", ".join(f"AU{unit:02d}" for unit in INTENSITIES if unit not in measured)
            detail = (
                f"this table of {tracker.name} has {len(measured)} of OpenFace's {len(INTENSITIES)} intensities, and "
                f"{MIN_INTENSITIES} are needed; it lacks {lacking}"
            )
            raise UnsupportedFormat(Modality.VISUAL, detail, f"line {header_line}")
        reader = _Reader(tracker, columns, names)
        rows = reader.rows(csv.reader(file, delimiter=separator), header_line)
        written, empty, others = _write(rows, tracker, columns, out, frames_per_second)
    if not written:
        raise UnsupportedFormat(Modality.VISUAL, "the table holds no frame")
    return Conversion(tracker.name, tracker.scale, written, empty, others, intensities, occurrences)


def _header(file: TextIO) -> tuple[list[str], str, int]:
    """Return names, separator and line number of the header, after the metadata of an iMotions export."""
    known = {column for tracker in TRACKERS for column in tracker.units.values()}
    for number, line in enumerate(file, start=1):
        raw = line.rstrip("\r\n").encode("utf-8", "surrogateescape")
        if raw.lstrip(b'" ').startswith(_METADATA.encode()):
            continue
        if (content := foreign_content(raw)) is not None:
            raise UnsupportedFormat(Modality.VISUAL, content, f"line {number}")
        separator = separator_of(raw.lower(), known)
        return column_names(raw, separator), separator.decode(), number
    raise UnsupportedFormat(Modality.VISUAL, "the file holds no header")


def _recognise(names: Sequence[str]) -> Tracker:
    """Return the tracker most of whose units are among the column names."""
    if set(ACTION_UNIT_COLUMNS) <= set(names):
        raise UnsupportedFormat(Modality.VISUAL, "the table has OpenFace 2's columns already; nothing is to convert")
    lowered = {name.lower() for name in names}
    found = {tracker.name: len(lowered.intersection(tracker.units.values())) for tracker in TRACKERS}
    best = max(TRACKERS, key=lambda tracker: found[tracker.name])
    if not found[best.name]:
        known = ", ".join(tracker.name for tracker in TRACKERS)
        why = foreign_table(names) or "no column of a tool that can be converted"
        raise UnsupportedFormat(Modality.VISUAL, f"{why}; tables of {known} can be converted")
    return best


def _source(tracker: Tracker, columns: Mapping[str, int], unit: int) -> int | None:
    """Index of the column with a unit's intensity or probability."""
    return columns.get(tracker.units.get(unit, ""))


def _occurrence_source(tracker: Tracker, columns: Mapping[str, int], unit: int) -> int | None:
    return columns.get(tracker.occurrences.get(unit, ""))


def _intensity_status(tracker: Tracker, columns: Mapping[str, int], unit: int) -> Status:
    if _source(tracker, columns, unit) is not None:
        return "same scale" if tracker.scale == "intensity" else "rescaled"
    if unit == _BLINK and _source(tracker, columns, _EYES_CLOSED) is not None:
        return "from AU43"
    return "absent" if _occurrence_source(tracker, columns, unit) is None else "from occurrence"


def _occurrence_status(tracker: Tracker, columns: Mapping[str, int], unit: int) -> Status:
    if _occurrence_source(tracker, columns, unit) is not None:
        return "same scale"
    status = _intensity_status(tracker, columns, unit)
    return "from intensity" if status in {"same scale", "rescaled"} else status


class _Reader:
    """Converts the rows of one table."""

    def __init__(self, tracker: Tracker, columns: Mapping[str, int], names: Sequence[str]) -> None:
        self._tracker, self._names = tracker, names
        self._units = {u: at for u in (*OCCURRENCES, _EYES_CLOSED) if (at := _source(tracker, columns, u)) is not None}
        self._occurrences = {u: at for u in OCCURRENCES if (at := _occurrence_source(tracker, columns, u)) is not None}
        self._frame, self._face, self._time, self._confidence = (
            columns.get(name or "") for name in (tracker.frame, tracker.face, tracker.time, tracker.confidence)
        )
        # An iMotions export has rows of other sensors in between.
        self._sparse = "eventsource" in columns or "samplenumber" in columns

    def rows(self, table: Iterator[list[str]], header_line: int) -> Iterator[_Row]:
        """Yield the rows that are frames."""
        for line in count(header_line + 1):
            try:
                cells = next(table, None)
            except csv.Error as error:
                raise corrupt(f"not a row of a CSV: {error}", f"line {line}") from None
            if cells is None:
                return
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(self._names):
                raise corrupt(f"{len(cells)} cells stand under {len(self._names)} columns", f"line {line}")
            values = self._values(cells, line)
            if values is None and self._sparse:
                continue
            confidence = self._number(cells, self._confidence, line, (0.0, 1.0))
            yield _Row(
                frame=cells[self._frame].strip() if self._frame is not None else str(line),
                face=self._face_id(cells),
                time=self._number(cells, self._time, line, (-math.inf, math.inf)),
                confidence=(0.0 if values is None else 1.0) if confidence is None else confidence,
                values=values,
            )

    def _values(self, cells: Sequence[str], line: int) -> list[float] | None:
        """OpenFace's 35 values; None where a cell that is needed holds no number."""
        scale = self._tracker.scale
        measured: dict[int, float] = {}
        for unit, at in self._units.items():
            value = self._number(cells, at, line, _RANGES[scale])
            if value is None:
                return None
            measured[unit] = value
        if _BLINK not in measured and _EYES_CLOSED in measured:
            measured[_BLINK] = measured[_EYES_CLOSED]
        found = {unit: self._number(cells, at, line, (0.0, 1.0)) for unit, at in self._occurrences.items()}
        if None in found.values():
            return None
        occurrences = {unit: float(value >= _LIKELY) for unit, value in found.items() if value is not None}
        for unit in OCCURRENCES:
            if unit in measured:
                occurrences.setdefault(unit, float(is_present(measured[unit], scale)))
        intensities = {unit: to_intensity(value, scale) for unit, value in measured.items()}
        return [
            *(intensities.get(unit, _PRESENT * occurrences.get(unit, 0.0)) for unit in INTENSITIES),
            *(occurrences.get(unit, 0.0) for unit in OCCURRENCES),
        ]

    def _number(self, cells: Sequence[str], at: int | None, line: int, bounds: tuple[float, float]) -> float | None:
        if at is None:
            return None
        cell = cells[at].strip().lower()
        if cell in _NO_NUMBER:
            return None
        place = f"line {line}, column {self._names[at]}"
        try:
            # A file whose cells are not separated by commas may have decimal commas.
            value = float(cell.replace(",", "."))
        except ValueError:
            raise corrupt("a cell is not a number", place) from None
        if not bounds[0] <= value <= bounds[1] or not math.isfinite(value):
            detail = f"a value lies outside the scale of {self._tracker.name}, {bounds[0]:g} to {bounds[1]:g}"
            raise corrupt(detail, place)
        return value

    def _face_id(self, cells: Sequence[str]) -> int | None:
        if self._face is None:
            return None
        name = cells[self._face].strip()
        digits = name[len(name.rstrip("0123456789")) :]
        return int(digits) if 0 < len(digits) < 10 else None


def to_intensity(value: float, scale: Scale) -> float:
    """Map a value to OpenFace's scale, 0 to 5."""
    if scale == "intensity":
        return value
    probability = _probability(value, scale)
    return _RANGES["intensity"][1] * probability


def is_present(value: float, scale: Scale) -> bool:
    """Whether a unit with this value counts as present."""
    return value >= _PRESENT if scale == "intensity" else _probability(value, scale) >= _LIKELY


def _probability(value: float, scale: Scale) -> float:
    if scale == "percent":
        return value / 100
    return 1 / (1 + 10 ** -min(max(value, -300.0), 300.0)) if scale == "evidence" else value


def _write(
    rows: Iterable[_Row], tracker: Tracker, columns: Mapping[str, int], out: TextIO, frames_per_second: float | None
) -> tuple[int, int, int]:
    """Write the table; returns the numbers of frames, of frames without a face, and of rows left out."""
    has_faces = tracker.face in columns
    has_time = tracker.time in columns or frames_per_second is not None
    leading = ["frame", *["face_id"] * has_faces, *["timestamp"] * has_time, "confidence", "success"]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*leading, *ACTION_UNIT_COLUMNS, tracker.marker])
    written = empty = others = 0
    first_time: float | None = None
    for number, (_, group) in enumerate(groupby(rows, key=lambda row: row.frame), start=1):
        together = list(group)
        if not has_faces:  # without identities rows of one frame cannot be followed from frame to frame
            others += len(together) - 1
            together = [max(together, key=lambda row: (row.values is not None, row.confidence))]
        for row in together:
            cells: list[str] = [str(number)]
            if has_faces:
                cells.append("0" if row.face is None else str(row.face))
            if has_time:
                if row.time is not None:
                    first_time = row.time if first_time is None else first_time
                    cells.append(f"{(row.time - first_time) / 1000:.3f}")
                else:
                    cells.append("" if frames_per_second is None else f"{(number - 1) / frames_per_second:.3f}")
            cells += [f"{row.confidence:.4g}", str(int(row.values is not None))]
            values = row.values or [0.0] * len(ACTION_UNIT_COLUMNS)
            written, empty = written + 1, empty + (row.values is None)
            writer.writerow([*cells, *(f"{value:.4g}" for value in values), "1"])
    return written, empty, others
