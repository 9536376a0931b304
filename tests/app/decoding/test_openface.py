import io
from collections.abc import Callable

import numpy as np
import pytest

from app.decoding.openface import decode_openface
from app.decoding.pool import DecodePool
from app.uploads.errors import CorruptPart, PartTooLarge, UploadError
from app.uploads.spool import SpooledFile
from model.errors import EmptyModality
from model.features.visual.openface import ColumnSet, OpenFaceLimits, read_openface
from tests.support.openface import simulate_openface_csv

pytestmark = pytest.mark.anyio

Spool = Callable[[bytes], SpooledFile]
FACE = simulate_openface_csv(3, "action_units")


@pytest.mark.parametrize("columns", ["all", "action_units"])
async def test_a_file_decodes_there_as_it_would_here(columns: ColumnSet, spool: Spool, pool: DecodePool) -> None:
    data = simulate_openface_csv(40, faces=(0, 1), confidence=(0.7, 0.9))
    there = await decode_openface(spool(data), columns, 0.5, OpenFaceLimits(), pool)
    here = read_openface(io.BytesIO(data), columns, 0.5)
    assert np.array_equal(there.values, here.values)
    assert (there.frames, there.kept, there.faces, there.face_id) == (80, 40, 2, 1)


@pytest.mark.parametrize(
    ("data", "limits", "kind", "status", "place"),
    [
        (b"", OpenFaceLimits(), CorruptPart, 422, "line 1"),
        (FACE.replace(b"AU12_r", b"AU99_r"), OpenFaceLimits(), CorruptPart, 422, "line 1"),
        (FACE.replace(b", 0.98", b", nan", 1), OpenFaceLimits(), CorruptPart, 422, "line 2, column confidence"),
        (FACE, OpenFaceLimits(max_rows=2), PartTooLarge, 413, "line 4"),
        (b"," * 2_000_000, OpenFaceLimits(), PartTooLarge, 413, "line 1"),
    ],
    ids=["nothing", "columns", "nan", "rows", "commas"],
)
async def test_each_fault_has_its_status_and_place(
    data: bytes,
    limits: OpenFaceLimits,
    kind: type[UploadError],
    status: int,
    place: str,
    spool: Spool,
    pool: DecodePool,
) -> None:
    with pytest.raises(kind) as caught:
        await decode_openface(spool(data), "action_units", 0.5, limits, pool)
    assert (caught.value.status, caught.value.part, caught.value.place) == (status, "openface", place)


async def test_a_file_without_a_usable_frame_is_empty(spool: Spool, pool: DecodePool) -> None:
    with pytest.raises(EmptyModality) as caught:
        await decode_openface(spool(FACE), "action_units", 0.99, OpenFaceLimits(), pool)
    assert caught.value.reason == "no_face"
