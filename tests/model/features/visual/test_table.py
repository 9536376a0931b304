import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import (
    CorruptModality,
    ModalityError,
    ModalityTooLarge,
    UnsupportedFormat,
)
from model.features.visual.table import ACTION_UNIT_COLUMNS, OpenFaceLimits
from tests.support.openface import simulate_openface_csv
from tests.support.openface_files import SMALL, read, with_cell


def test_quoted_names_and_cells_are_read() -> None:
    quoted = re.sub(rb"[^,\n]+", rb'"\g<0>"', SMALL.replace(b" ", b""))
    header_only = quoted.split(b"\n")[0] + b"\n" + SMALL.split(b"\n", 1)[1]
    one_cell = with_cell(SMALL, 3, "AU12_r", b' "1.5" ')
    assert np.array_equal(read(quoted).values, read(SMALL).values)
    assert np.array_equal(read(header_only).values, read(SMALL).values)
    assert read(one_cell).values[1, ACTION_UNIT_COLUMNS.index("AU12_r")] == 1.5


@pytest.mark.parametrize("separator", [b";", b"\t"])
@pytest.mark.parametrize("decimal_mark", [b".", b","])
def test_other_separators_are_read_with_either_decimal_mark(separator: bytes, decimal_mark: bytes) -> None:
    data = SMALL.replace(b", ", separator).replace(b".", decimal_mark)
    assert np.array_equal(read(data).values, read(SMALL).values)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_encodings_with_a_byte_order_mark_are_read(encoding: str) -> None:
    assert np.array_equal(read(SMALL.decode().encode(encoding)).values, read(SMALL).values)


def test_limit_of_bytes_applies_to_every_encoding() -> None:
    data = SMALL.decode().encode("utf-16")
    assert read(data, limits=OpenFaceLimits(max_bytes=len(data))).kept == 3
    with pytest.raises(ModalityTooLarge, match="bytes"):
        read(data, limits=OpenFaceLimits(max_bytes=len(data) - 1))


def test_file_cut_within_a_utf16_character_is_an_error() -> None:
    with pytest.raises(CorruptModality, match="UTF-16"):
        read(SMALL.decode().encode("utf-16")[:-1])


def test_decimal_commas_between_commas_are_named() -> None:
    with pytest.raises(CorruptModality, match="decimal commas") as caught:
        read(SMALL.replace(b", ", b",").replace(b".", b","))
    assert caught.value.place == "line 2"


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "empty"),
        (b" \r\n" + SMALL, "empty"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b'{"AU01_r": [0.1, 0.2]}', "JSON"),
        (b"PK\x03\x04\x14\0", "Excel"),
        (b"\x1f\x8b\x08", "gzip"),
        (SMALL.decode().encode("utf-16-le"), "UTF-16"),
        (SMALL.replace(b",", b"|"), "no comma, semicolon or tab"),
        (SMALL.split(b"\n", 1)[1], "numbers instead of the names"),
        (b"frame,FaceRectX,FaceScore,AU01,AU02\n0,1,1,0,0", "Py-Feat"),
        (b"frame_idx,facial_expression,au_1,au_1_intensity\n0,Happiness,1,1", "LibreFace"),
        (b"frame,success,AU01_r,AU02_r,AU03_r,AU08_r\n0,1,0,0,0,0", "OpenFace 3"),
        (b"frame,browDownLeft,mouthSmileLeft\n0,0.1,0.2", "MediaPipe"),
    ],
)
def test_error_of_another_file_names_what_it_is(data: bytes, named: str) -> None:
    with pytest.raises(UnsupportedFormat, match=named) as caught:
        read(data)
    assert caught.value.place == "line 1"


def test_error_of_missing_columns_lists_five_and_counts_the_others() -> None:
    with pytest.raises(UnsupportedFormat) as caught:
        read(SMALL.replace(b"_r", b"_x").replace(b"AU45_c", b"AU45"))
    listed = "AU01_r, AU02_r, AU04_r, AU05_r, AU06_r and 13 more"
    assert caught.value.detail == f"18 of the 35 columns needed are missing: {listed}"


@pytest.mark.parametrize("change", [b", 0.5", b""], ids=["a cell more", "a cell less"])
def test_row_of_another_width_is_an_error(change: bytes) -> None:
    lines = SMALL.split(b"\n")
    lines[2] = lines[2] + change if change else lines[2].rpartition(b",")[0]
    with pytest.raises(CorruptModality) as caught:
        read(b"\n".join(lines))
    assert caught.value.place == "line 3"


def test_file_truncated_within_a_row_is_an_error() -> None:
    with pytest.raises(CorruptModality):
        read(SMALL[: SMALL.rstrip(b"\n").rindex(b"\n") + 40])


def test_blank_line_between_rows_is_an_error() -> None:
    lines = SMALL.split(b"\n")
    with pytest.raises(CorruptModality) as caught:
        read(b"\n".join([*lines[:2], b"", *lines[2:]]))
    assert caught.value.place == "line 3"


def test_fractional_face_id_is_an_error() -> None:
    with pytest.raises(CorruptModality, match="whole") as caught:
        read(with_cell(SMALL, 3, "face_id", b"0.5"))
    assert caught.value.place == "line 3, column face_id"


def test_duplicate_names_of_used_columns_are_an_error() -> None:
    assert read(simulate_openface_csv(1, (*ACTION_UNIT_COLUMNS, "mood", "mood"))).kept == 1
    with pytest.raises(CorruptModality, match="same name"):
        read(simulate_openface_csv(1, (*ACTION_UNIT_COLUMNS, "AU01_r")))


@pytest.mark.parametrize(
    "data",
    [b"\n", b"frame, success\n1, 1\n", b"hello", SMALL.replace(b"AU12_r", b"AU99_r")],
)
def test_file_without_the_needed_columns_is_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedFormat):
        read(data)


def test_byte_order_mark_of_another_encoding_is_an_error() -> None:
    with pytest.raises((CorruptModality, UnsupportedFormat)):
        read(b"\xff\xfe" + SMALL)


def test_error_far_into_a_long_file_names_its_line() -> None:
    data = simulate_openface_csv(1_500, "action_units")
    assert read(data).kept == 1_500
    with pytest.raises(CorruptModality, match="finite") as caught:
        read(with_cell(data, 1_400, "AU45_r", b"1_0"))
    assert caught.value.place == "line 1400, column AU45_r"


def test_rows_with_exponents_are_read_among_plain_ones() -> None:
    data = simulate_openface_csv(1_500, "action_units")
    changed = with_cell(with_cell(data, 700, "AU45_r", b"25e-1"), 1_200, "AU45_r", b"0.30000000000000004")
    place = ACTION_UNIT_COLUMNS.index("AU45_r")
    expected = read(data).values
    expected[[698, 1_198], place] = [2.5, 0.3]
    assert np.array_equal(read(changed).values, expected)


def test_limit_of_bytes_is_enforced() -> None:
    for allowance in (0, 1):
        assert read(SMALL, limits=OpenFaceLimits(max_bytes=len(SMALL) + allowance)).kept == 3
    with pytest.raises(ModalityTooLarge, match="bytes"):
        read(SMALL, limits=OpenFaceLimits(max_bytes=len(SMALL) - 1))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_limit_of_line_bytes_excludes_the_line_end(newline: str) -> None:
    data = simulate_openface_csv(3, "action_units", newline=newline)
    longest = max(len(line) for line in data.split(newline.encode()))
    for allowance in (0, 1):
        assert read(data, limits=OpenFaceLimits(max_line_bytes=longest + allowance)).kept == 3
    with pytest.raises(ModalityTooLarge, match="a line") as caught:
        read(data, limits=OpenFaceLimits(max_line_bytes=longest - 1))
    assert caught.value.place == "line 1"


def test_limit_of_columns_is_enforced() -> None:
    for columns in (1_023, 1_024):
        extra = tuple(f"c{i}" for i in range(columns - 40))
        assert read(simulate_openface_csv(1, (*ACTION_UNIT_COLUMNS, *extra))).kept == 1
    with pytest.raises(ModalityTooLarge, match="1024 columns"):
        read(simulate_openface_csv(1, (*ACTION_UNIT_COLUMNS, *(f"c{i}" for i in range(1_025 - 40)))))


def test_limit_of_rows_is_enforced() -> None:
    data = simulate_openface_csv(5, "action_units")
    for rows in (5, 6):
        assert read(data, limits=OpenFaceLimits(max_rows=rows)).frames == 5
    with pytest.raises(ModalityTooLarge, match="4 rows") as caught:
        read(data, limits=OpenFaceLimits(max_rows=4))
    assert caught.value.place == "line 6"


@pytest.mark.parametrize(
    "data", [b"," * 2_000_000, b",\n" * 1_000_000, SMALL.split(b"\n")[0] + b"\n" + b"," * 2_000_000]
)
def test_megabytes_of_commas_are_rejected(data: bytes) -> None:
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
def test_any_bytes_give_a_track_or_a_modality_error(header: bytes, body: bytes, split: bytes) -> None:
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
def test_any_cell_gives_a_track_or_a_modality_error(line: int, column: str, cell: bytes) -> None:
    try:
        track = read(with_cell(SMALL, line, column, cell))
    except ModalityError:
        return
    assert np.isfinite(track.values).all()
    assert 1 <= track.kept <= track.frames == 3
