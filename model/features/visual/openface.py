"""An OpenFace 2 CSV (Baltrusaitis et al., FG 2018) → the frames of one face, or an error naming line and column.

Shapes: R rows of the file, T kept frames, d columns, u used columns.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from model.errors import EmptyModality, FaceNotFound
from model.features.visual.table import (
    ACTION_UNIT_COLUMNS,
    INTENSITIES,
    LISTED,
    OCCURRENCES,
    ColumnSet,
    OpenFaceLimits,
    Table,
    corrupt,
    read_table,
)
from model.modality import Modality
from model.types import BoolArray, DoubleArray, FloatArray, IntArray

MAX_INTENSITY: Final = 5.0
MAX_EXCESS: Final = 2.0
"""Accepted excess of an action unit beyond its scale: intensities from -2 to 7, occurrences from -2 to 3. A value that
exceeds it means that the file uses another scale."""

_MAX_VALUES: Final = np.repeat([MAX_INTENSITY, 1.0], [len(INTENSITIES), len(OCCURRENCES)])  # the least are 0
MAX_UNREADABLE: Final = 0.2
"""Accepted share of a face's usable frames without a number in a cell that is needed."""


@dataclass(frozen=True, slots=True)
class FaceTrack:
    """The usable frames of one face.

    Args:
        values: `(T, d)` float32, in the order of the column set; or the slots that `FeatureExtractor.visual` computes.
            Action units outside their scale are replaced by the nearest end of it.
        frames: rows of the file, including those of other faces.
        kept: T.
        skipped_unsuccessful: rows of this face with `success` 0.
        skipped_low_confidence: successful rows of this face below the minimum confidence.
        faces: number of faces in the file.
        face_id: of this face; None if the file does not number faces.
        skipped_unreadable: other rows of this face without a number in a cell that is needed.
        all_zero: whether every action unit of `values` is 0, which never is so for a real face.
        warnings: code → detail: `converted`, `several_faces`, `frames_skipped`, `out_of_scale`, `time_backwards`.
        truncated: whether frames were cut to fit the slots.
    """

    values: FloatArray
    frames: int
    kept: int
    skipped_unsuccessful: int
    skipped_low_confidence: int
    faces: int
    face_id: int | None
    skipped_unreadable: int = 0
    all_zero: bool = False
    warnings: Mapping[str, str] = field(default_factory=dict)
    truncated: bool = False


def read_openface(
    source: Path | BinaryIO,
    columns: ColumnSet,
    min_confidence: float,
    limits: OpenFaceLimits | None = None,
    *,
    face_id: int | None = None,
) -> FaceTrack:
    """Read a whole file.

    Accepts names with leading spaces and in quotes, commas, semicolons (then with decimal points or commas) and tabs
    between cells, a byte order mark, UTF-16 and UTF-32 with one, CRLF and LF, further columns, files of
    `model.features.visual.conversion`, and files without
    `face_id` (older versions: one face), without frame and timestamp (image mode, which numbers faces by `face`), and
    without confidence or success (every frame is used). Of several faces, the one with the greatest sum of confidence
    over its usable frames is returned, the lower id of equal ones.

    Only cells that are used are judged: success, the confidence and face of successful rows, and the needed columns of
    the frames that are returned. A frame without a number in one of them (empty, `nan`, `NA`) is skipped, up to
    `MAX_UNREADABLE` of the frames.

    Args:
        source: a path, or a binary file at its current position.
        columns: the columns of `values`; others may be absent.
        min_confidence: frames below this confidence are skipped.
        limits: `OpenFaceLimits()` if not given.
        face_id: the face to return instead of the most confident one.

    Raises:
        UnsupportedFormat: a needed column is missing; names what the file is, if that is known.
        CorruptModality: not a CSV of numbers, too many frames without one, or a value that exceeds its scale (an action
            unit by more than `MAX_EXCESS`); names line and column.
        FaceNotFound: there is no face `face_id`.
        ModalityTooLarge: a limit is exceeded.
        EmptyModality: `no_face`: no frame is usable.
        OSError: the path cannot be read.
    """
    limits = limits or OpenFaceLimits()
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        table = read_table(file, columns, limits)
    if not len(table.cells):
        raise EmptyModality(Modality.VISUAL, "no_face", "the file holds no frame")
    return _select_face(table, min_confidence, face_id)


def _select_face(table: Table, min_confidence: float, face_id: int | None) -> FaceTrack:
    """Choose the face and keep its usable rows."""
    rows = len(table.cells)
    optional = table.optional()
    confidence = optional.get("confidence", np.ones(rows))
    failed = optional.get("success", np.ones(rows)) <= 0  # False where there is no number, as every comparison with NaN
    unsure = ~failed & (confidence < min_confidence)
    usable = ~failed & ~unsure
    table.check(usable & (confidence > 1), "confidence", "a confidence lies outside its scale, 0 to 1")
    own, ids, chosen = np.ones(rows, dtype=bool), np.zeros(0), None
    if (face := optional.get("face")) is not None:
        numbered = face == np.floor(face)
        table.check(usable & ~numbered & ~np.isnan(face), "face", "a face's number is not whole")
        ids, which = np.unique(face[numbered], return_inverse=True)
        sums = np.bincount(which, np.where(usable, np.nan_to_num(confidence), 0)[numbered], minlength=len(ids))
        if face_id is not None:
            chosen = face_id
        elif len(ids):
            chosen = int(ids[sums.argmax()])  # the first of equal sums, which belongs to the lowest id
        own = ~numbered | (face == chosen)
    if face_id is not None and face_id not in ids:
        raise FaceNotFound(Modality.VISUAL, f"there is no face {face_id}; the file has {_faces(ids)}")
    unreadable = _unreadable(table, usable & own)
    kept = usable & own & ~unreadable
    if not kept.any():
        raise EmptyModality(Modality.VISUAL, "no_face", "no frame shows a face with enough confidence")
    warnings: dict[str, str] = {}
    if (tool := table.header.converted_from) is not None:
        warnings["converted"] = (
            f"The action units were converted from those of {tool}. The weights were trained on OpenFace 2's, and the "
            "conversion was not compared with them."
        )
    if len(ids) > 1:
        reason = "the most confident one" if face_id is None else "the one asked for"
        warnings["several_faces"] = f"The file holds {_faces(ids)}; face {chosen}, {reason}, was followed."
    unsuccessful, low_confidence = int((own & failed).sum()), int((own & unsure).sum())
    if unsuccessful or low_confidence or unreadable.any():
        left_out = f"{unsuccessful} without success, {low_confidence} with too little confidence"
        if unreadable.any():
            left_out += f", {unreadable.sum()} without a number in a needed cell, first in {table.fault(unreadable)}"
        warnings["frames_skipped"] = f"Frames left out: {left_out}."
    used = table.cells[kept, -table.header.size :]
    units = used[:, -len(ACTION_UNIT_COLUMNS) :]  # the last columns of either column set
    indices = np.flatnonzero(kept)
    warnings |= _clip_to_scale(units, indices)
    warnings |= _check_time(table, indices)
    return FaceTrack(
        values=np.ascontiguousarray(used, dtype=np.float32),
        frames=rows,
        kept=len(indices),
        skipped_unsuccessful=unsuccessful,
        skipped_low_confidence=low_confidence,
        faces=max(1, len(ids)),
        face_id=chosen,
        skipped_unreadable=int(unreadable.sum()),
        all_zero=not units.any(),
        warnings=warnings,
    )


def _faces(ids: DoubleArray) -> str:
    """List the faces of a file."""
    if not len(ids):
        return "no numbered faces"
    listed = ", ".join(f"{number:.0f}" for number in ids[:LISTED])
    more = f" and {len(ids) - LISTED} more" if len(ids) > LISTED else ""
    return f"{len(ids)} face{'s' if len(ids) > 1 else ''} (face_id {listed}{more})"


def _unreadable(table: Table, usable: BoolArray) -> BoolArray:
    """Return which of the usable rows `(R,)` have a cell without a number.

    Raises:
        CorruptModality: a cell of a usable row is faulty otherwise, or more than `MAX_UNREADABLE` rows have one.
    """
    unreadable = np.zeros(len(usable), dtype=bool)
    for row, fault in table.faults.items():
        if usable[row]:
            if fault.detail is not None:
                raise corrupt(fault.detail, table.header.place(row, fault.column))
            unreadable[row] = True
    count, frames = int(unreadable.sum()), int(usable.sum())
    if count > MAX_UNREADABLE * frames:
        detail = f"{count} of {frames} frames lack a number in a needed cell; at most {MAX_UNREADABLE:.0%} may"
        raise corrupt(detail, table.fault(unreadable))
    return unreadable


def _check_time(table: Table, rows: IntArray) -> Mapping[str, str]:
    """Return the warning `time_backwards` if the time of the used rows, given by index, decreases."""
    if (time := table.optional().get("time")) is None:
        return {}
    timed = rows[~np.isnan(time[rows])]
    if not len(backwards := timed[1:][np.diff(time[timed]) < 0]):
        return {}
    place = table.place(int(backwards[0]), "time")
    detail = f"The time goes backwards in {place}, as in joined files; the frames were used in the file's order."
    return {"time_backwards": detail}


def _clip_to_scale(units: DoubleArray, rows: IntArray) -> Mapping[str, str]:
    """Clip action units `(T, 35)` to their scales, in place; returns the warning `out_of_scale` if one was outside.

    Args:
        units: of the used rows.
        rows: `(T,)` indices of these rows in the file, from 0.

    Raises:
        CorruptModality: a value exceeds its scale by more than `MAX_EXCESS`.
    """
    clipped = np.clip(units, 0.0, _MAX_VALUES)
    excess = np.abs(units - clipped)
    if (far := excess > MAX_EXCESS).any():
        row, column = (int(index) for index in np.argwhere(far)[0])
        is_intensity = column < len(INTENSITIES)
        scale = f"intensities go from 0 to {MAX_INTENSITY:g}" if is_intensity else "occurrences are 0 or 1"
        place = f"line {2 + rows[row]}, column {ACTION_UNIT_COLUMNS[column]}"
        raise corrupt(f"an action unit lies far outside its scale: {scale}", place)
    off = excess > 0
    occurrences = clipped[:, len(INTENSITIES) :]
    off[:, len(INTENSITIES) :] |= (occurrences != 0) & (occurrences != 1)
    units[:] = clipped
    if not off.any():
        return {}
    row, column = (int(index) for index in np.argwhere(off)[0])
    detail = (
        f"In {int(off.any(axis=1).sum())} of {len(units)} frames an action unit is outside OpenFace's scale "
        "(intensities 0 to 5, occurrences 0 or 1); what lies beyond an end of the scale counts as that end. The first "
        f"is in line {2 + rows[row]}, column {ACTION_UNIT_COLUMNS[column]}."
    )
    return {"out_of_scale": detail}
