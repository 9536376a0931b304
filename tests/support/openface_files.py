"""Reading an OpenFace file from memory, as is or with one cell changed."""

import io

from model.features.visual.openface import FaceTrack, read_openface
from model.features.visual.table import ColumnSet, OpenFaceLimits
from tests.support.openface import simulate_openface_csv


def read(
    data: bytes,
    columns: ColumnSet = "action_units",
    min_confidence: float = 0.5,
    limits: OpenFaceLimits | None = None,
    face_id: int | None = None,
) -> FaceTrack:
    return read_openface(io.BytesIO(data), columns, min_confidence, limits, face_id=face_id)


def with_cell(data: bytes, line: int, column: str, cell: bytes) -> bytes:
    """The file with one cell replaced; `line` counts from 1."""
    lines = data.split(b"\n")
    place = [name.strip() for name in lines[0].split(b",")].index(column.encode())
    cells = lines[line - 1].split(b",")
    cells[place] = cell
    lines[line - 1] = b",".join(cells)
    return b"\n".join(lines)


SMALL = simulate_openface_csv(3, "action_units")
