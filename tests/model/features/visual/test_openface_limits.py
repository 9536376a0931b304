"""What an OpenFace file may cost, and that none raises anything but the documented errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import ModalityError, ModalityTooLarge, UnsupportedFormat
from model.features.visual.openface import (
    ACTION_UNIT_COLUMNS,
    OpenFaceLimits,
)
from tests.support.openface import simulate_openface_csv
from tests.support.openface_files import SMALL, read, with_cell

# ---- limits ---------------------------------------------------------------------------------------------------------


def test_the_limit_of_bytes() -> None:
    for allowance in (0, 1):
        assert read(SMALL, limits=OpenFaceLimits(max_bytes=len(SMALL) + allowance)).kept == 3
    with pytest.raises(ModalityTooLarge, match="bytes"):
        read(SMALL, limits=OpenFaceLimits(max_bytes=len(SMALL) - 1))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_limit_of_a_line_leaves_its_end_out(newline: str) -> None:
    data = simulate_openface_csv(3, "action_units", newline=newline)
    longest = max(len(line) for line in data.split(newline.encode()))
    for allowance in (0, 1):
        assert read(data, limits=OpenFaceLimits(max_line_bytes=longest + allowance)).kept == 3
    with pytest.raises(ModalityTooLarge, match="a line") as caught:
        read(data, limits=OpenFaceLimits(max_line_bytes=longest - 1))
    assert caught.value.place == "line 1"


def test_the_limit_of_columns() -> None:
    for columns in (1_023, 1_024):
        extra = tuple(f"c{i}" for i in range(columns - 40))
        assert read(simulate_openface_csv(1, (*ACTION_UNIT_COLUMNS, *extra))).kept == 1
    with pytest.raises(ModalityTooLarge, match="1024 columns"):
        read(simulate_openface_csv(1, (*ACTION_UNIT_COLUMNS, *(f"c{i}" for i in range(1_025 - 40)))))


def test_the_limit_of_rows() -> None:
    data = simulate_openface_csv(5, "action_units")
    for rows in (5, 6):
        assert read(data, limits=OpenFaceLimits(max_rows=rows)).frames == 5
    with pytest.raises(ModalityTooLarge, match="4 rows") as caught:
        read(data, limits=OpenFaceLimits(max_rows=4))
    assert caught.value.place == "line 6"


@pytest.mark.parametrize(
    "data", [b"," * 2_000_000, b",\n" * 1_000_000, SMALL.split(b"\n")[0] + b"\n" + b"," * 2_000_000]
)
def test_two_megabytes_of_commas_are_refused_before_they_cost_anything(data: bytes) -> None:
    with pytest.raises((ModalityTooLarge, UnsupportedFormat)):
        read(data)


header_line = st.sampled_from([SMALL.split(b"\n")[0], b"frame, success", b"", b"\xff"])
cells = st.one_of(
    st.floats().map(lambda x: str(x).encode()), st.integers().map(lambda x: str(x).encode()), st.binary(max_size=6)
)
rows = st.lists(st.lists(cells, min_size=38, max_size=42).map(b", ".join), max_size=4).map(b"\n".join)


@given(
    header=header_line, body=st.one_of(rows, st.binary(max_size=200)), split=st.sampled_from([b"\n", b"\r\n", b"\r"])
)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_whatever_the_bytes_only_a_track_or_a_fault_comes_out(header: bytes, body: bytes, split: bytes) -> None:
    try:
        track = read(header + split + body)
    except ModalityError:
        return
    assert np.isfinite(track.values).all()


@given(
    line=st.integers(2, 4),
    column=st.sampled_from(["frame", "face_id", "confidence", "success", "AU01_r", "AU45_c"]),
    cell=cells.filter(lambda cell: b"," not in cell and b"\n" not in cell),
)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_whatever_one_cell_holds_only_a_track_or_a_fault_comes_out(line: int, column: str, cell: bytes) -> None:
    try:
        track = read(with_cell(SMALL, line, column, cell))
    except ModalityError:
        return
    assert np.isfinite(track.values).all()
    assert 1 <= track.kept <= track.frames == 3
