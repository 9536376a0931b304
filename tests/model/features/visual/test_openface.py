from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import CorruptModality, EmptyModality, ModalityError, ModalityTooLarge, UnsupportedFormat
from model.features.visual.openface import (
    ACTION_UNIT_COLUMNS,
    ALL_COLUMNS,
    ColumnSet,
    OpenFaceLimits,
    read_openface,
)
from tests.support.corpus import real_data
from tests.support.openface import simulate_openface_csv
from tests.support.openface_files import SMALL, read, with_cell


def test_column_counts_are_those_of_the_paper() -> None:
    assert len(ALL_COLUMNS) == len(set(ALL_COLUMNS)) == 709
    assert ALL_COLUMNS[-35:] == ACTION_UNIT_COLUMNS
    assert [name[-1] for name in ACTION_UNIT_COLUMNS] == ["r"] * 17 + ["c"] * 18


@pytest.mark.parametrize("columns", ["all", "action_units"])
def test_real_file_is_read_as_by_loadtxt(columns: ColumnSet) -> None:
    samples = sorted(real_data().glob("openface_samples/*.csv"))
    if not samples:
        pytest.skip("no OpenFace file here")
    header = [name.strip() for name in samples[0].read_text().partition("\n")[0].split(",")]
    table = np.loadtxt(samples[0], delimiter=",", skiprows=1)
    assert tuple(header[5:]) == ALL_COLUMNS
    track = read_openface(samples[0], columns, 0.5)
    good = (table[:, header.index("success")] > 0) & (table[:, header.index("confidence")] >= 0.5)
    assert np.array_equal(track.values, table[good, 5 if columns == "all" else 5 + 709 - 35 :].astype(np.float32))
    assert (track.frames, track.kept, track.faces, track.face_id) == (len(table), good.sum(), 1, 0)


@pytest.mark.parametrize("spaces", [True, False])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("face_id", [True, False])
def test_spaces_line_ends_and_face_id_are_optional(spaces: bool, newline: str, face_id: bool) -> None:
    data = simulate_openface_csv(4, spaces=spaces, newline=newline, face_id=face_id)
    track = read(data, "all")
    assert track.values.shape == (4, 709)
    assert track.values.dtype == np.float32
    assert np.array_equal(track.values, read(simulate_openface_csv(4), "all").values)
    assert track.face_id == (0 if face_id else None)
    assert track.faces == 1


def test_values_are_in_the_order_of_the_column_set() -> None:
    shuffled = list(reversed(ACTION_UNIT_COLUMNS))
    track = read(simulate_openface_csv(2, shuffled, seed=5))
    straight = simulate_openface_csv(2, shuffled, seed=5).decode().splitlines()[1].split(",")[5:]
    assert track.values[0].tolist() == pytest.approx([float(cell) for cell in reversed(straight)])


def test_file_of_action_units_only_is_accepted() -> None:
    header, *rows = simulate_openface_csv(3, "action_units", face_id=False).decode().splitlines()
    bare = "\n".join(",".join(line.split(",")[4:]) for line in (header, *rows)).encode()
    track = read(bare, min_confidence=1.0)
    assert (track.kept, track.faces, track.face_id) == (3, 1, None)
    with pytest.raises(UnsupportedFormat, match="674 of the 709"):
        read(bare, "all")


def test_image_mode_without_frame_and_timestamp_is_read() -> None:
    track = read(simulate_openface_csv(1, mode="image"), "all")
    assert (track.kept, track.face_id) == (1, 0)


def test_most_confident_face_is_selected_in_image_mode() -> None:
    track = read(simulate_openface_csv(1, mode="image", faces=(0, 1, 2), confidence=(0.6, 0.9, 0.7)))
    assert (track.faces, track.face_id, track.frames, track.kept) == (3, 1, 3, 1)


def test_byte_order_mark_and_trailing_blank_lines_are_ignored() -> None:
    assert np.array_equal(read(b"\xef\xbb\xbf" + SMALL + b"\r\n\n").values, read(SMALL).values)


def test_last_line_may_lack_its_line_end() -> None:
    assert np.array_equal(read(SMALL.rstrip(b"\n")).values, read(SMALL).values)


def test_path_and_file_object_give_the_same_result(tmp_path: Path) -> None:
    path = tmp_path / "face.csv"
    path.write_bytes(SMALL)
    assert np.array_equal(read_openface(path, "action_units", 0.5).values, read(SMALL).values)


def test_further_columns_are_checked_but_not_used() -> None:
    data = simulate_openface_csv(3, (*ACTION_UNIT_COLUMNS, "mood"), spaces=False)
    assert read(data).values.shape == (3, 35)
    with pytest.raises(CorruptModality, match="finite") as caught:
        read(with_cell(data, 3, "mood", b"nan"))
    # The name of another column is the sender's content, which is not repeated.
    assert caught.value.place == "line 3, column 41"


# ---- which frames, which face ---------------------------------------------------------------------------------------


def test_unsuccessful_and_unconfident_frames_are_skipped_and_counted() -> None:
    data = simulate_openface_csv(
        5, "action_units", success=(1, 0, 1, 1, 0), confidence=(0.98, 0.98, 0.49, 0.5, 0.1), seed=3
    )
    track = read(data)
    assert (track.frames, track.kept, track.skipped_unsuccessful, track.skipped_low_confidence) == (5, 2, 2, 1)
    assert np.array_equal(track.values, read(simulate_openface_csv(5, "action_units", seed=3)).values[[0, 3]])


@pytest.mark.parametrize(("confidence", "kept"), [(0.49, False), (0.5, True), (0.51, True)])
def test_frame_at_the_minimum_confidence_is_kept(confidence: float, kept: bool) -> None:
    data = simulate_openface_csv(1, "action_units", confidence=confidence)
    if kept:
        assert read(data).kept == 1
    else:
        with pytest.raises(EmptyModality):
            read(data)


def test_most_confident_face_is_selected() -> None:
    track = read(simulate_openface_csv(4, "action_units", faces=(2, 7), confidence=(0.7, 0.95)))
    assert (track.faces, track.face_id, track.frames, track.kept) == (2, 7, 8, 4)


def test_lower_id_of_equal_faces_is_selected() -> None:
    assert read(simulate_openface_csv(4, "action_units", faces=(3, 1))).face_id == 1


def test_face_with_the_greater_sum_of_confidence_is_selected() -> None:
    data = simulate_openface_csv(10, "action_units", confidence=0.8)
    passing = simulate_openface_csv(1, "action_units", faces=(1,), confidence=0.99).split(b"\n", 1)[1]
    track = read(data + passing)
    assert (track.face_id, track.faces, track.kept) == (0, 2, 10)


def test_unsuccessful_frames_do_not_count_for_a_face() -> None:
    lost = simulate_openface_csv(10, "action_units", confidence=0.98, success=0)
    seen = simulate_openface_csv(2, "action_units", faces=(1,), confidence=0.8).split(b"\n", 1)[1]
    track = read(lost + seen)
    assert (track.face_id, track.kept, track.skipped_unsuccessful) == (1, 2, 0)


@pytest.mark.parametrize(
    "data",
    [
        simulate_openface_csv(3, "action_units", success=0),
        simulate_openface_csv(3, "action_units", confidence=0.2),
        simulate_openface_csv(0, "action_units"),
    ],
    ids=["no success", "no confidence", "no row"],
)
def test_file_without_a_usable_frame_is_empty(data: bytes) -> None:
    with pytest.raises(EmptyModality) as caught:
        read(data)
    assert caught.value.reason == "no_face"


# ---- what is wrong --------------------------------------------------------------------------------------------------


NO_NUMBERS = (
    *(
        b"nan",
        b" NaN",
        b"inf",
        b"-inf",
        b"Infinity",
        b"1e999",
        b"-1e999",
        b"1_000",
        b"",
        b" ",
        b"1 2",
        b"0x10",
        b"1\xa0",
    ),
    *(b"1.2.3", b"--1", b"1e", b".", b"e5", b"\xd9\xa1", b'"1"', b"one", b"1\0"),
)


@pytest.mark.parametrize("cell", NO_NUMBERS)
@pytest.mark.parametrize("column", ["AU12_r", "frame", "confidence"])
def test_error_of_a_non_finite_cell_names_line_and_column(cell: bytes, column: str) -> None:
    with pytest.raises(CorruptModality, match="finite") as caught:
        read(with_cell(SMALL, 3, column, cell))
    assert caught.value.place == f"line 3, column {column}"


def test_cells_of_skipped_rows_are_checked() -> None:
    data = simulate_openface_csv(3, "action_units", success=(1, 0, 1))
    with pytest.raises(CorruptModality, match="finite"):
        read(with_cell(data, 3, "AU01_r", b"nan"))


@pytest.mark.parametrize("cell", [b"1", b" 1 ", b"+1", b"-1", b"1.", b".5", b"1e3", b"1.5E-2", b"\t2", b"0001"])
def test_every_notation_of_a_number_is_read(cell: bytes) -> None:
    track = read(with_cell(simulate_openface_csv(3), 2, "gaze_0_x", cell), "all")
    assert track.values[0, 0] == np.float32(float(cell))


# ---- action units outside their scale -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "cell", "taken", "counted"),
    [
        ("AU12_r", b"0", 0, 0),
        ("AU12_r", b"5.00", 5, 0),
        ("AU12_r", b"5.01", 5, 1),
        ("AU12_r", b"7", 5, 1),
        ("AU12_r", b"-0.01", 0, 1),
        ("AU12_r", b"-2", 0, 1),
        ("AU12_c", b"1.0", 1, 0),
        ("AU12_c", b"0", 0, 0),
        ("AU12_c", b"0.5", 0.5, 1),
        ("AU12_c", b"3", 1, 1),
        ("AU12_c", b"-2", 0, 1),
    ],
)
@pytest.mark.parametrize("columns", ["all", "action_units"])
def test_small_excess_is_counted_and_clipped_to_the_scale(
    columns: ColumnSet, column: str, cell: bytes, taken: float, counted: int
) -> None:
    track = read(with_cell(simulate_openface_csv(3, columns), 3, column, cell), columns)
    assert track.values[1, -35 + ACTION_UNIT_COLUMNS.index(column)] == np.float32(taken)
    assert track.out_of_scale == counted


def test_rows_off_scale_are_counted_once() -> None:
    data = with_cell(with_cell(with_cell(SMALL, 2, "AU01_r", b"6"), 2, "AU45_c", b"2"), 4, "AU12_r", b"-1")
    assert read(data).out_of_scale == 2


@pytest.mark.parametrize(
    ("column", "cell", "scale"),
    [
        ("AU12_r", b"7.01", "0 to 5"),
        ("AU45_r", b"100000", "0 to 5"),
        ("AU01_r", b"-2.01", "0 to 5"),
        ("AU01_c", b"3.01", "0 or 1"),
        ("AU45_c", b"-2.5", "0 or 1"),
    ],
)
def test_error_of_a_large_excess_names_line_column_and_scale(column: str, cell: bytes, scale: str) -> None:
    with pytest.raises(CorruptModality, match=scale) as caught:
        read(with_cell(SMALL, 3, column, cell))
    assert caught.value.place == f"line 3, column {column}"


def test_error_names_the_first_faulty_line_of_the_file() -> None:
    data = simulate_openface_csv(5, "action_units", success=(1, 0, 1, 0, 1))
    with pytest.raises(CorruptModality) as caught:
        read(with_cell(with_cell(data, 6, "AU01_r", b"99"), 4, "AU45_c", b"99"))
    assert caught.value.place == "line 4, column AU45_c"


def test_scale_applies_only_to_used_rows_and_columns() -> None:
    data = simulate_openface_csv(3, (*ACTION_UNIT_COLUMNS, "AU99_r"), success=(1, 0, 1))
    track = read(with_cell(with_cell(data, 3, "AU12_r", b"99"), 2, "AU99_r", b"99"))
    assert (track.kept, track.out_of_scale) == (2, 0)
    two = simulate_openface_csv(2, "action_units", faces=(0, 1), confidence=(0.7, 0.9))
    assert read(with_cell(two, 2, "AU12_r", b"99")).out_of_scale == 0


def test_all_zero_is_set_only_if_every_action_unit_is_zero() -> None:
    data = simulate_openface_csv(3, "action_units", success=(1, 0, 1))
    for line in (2, 4):
        for column in ACTION_UNIT_COLUMNS:
            data = with_cell(data, line, column, b"0.00")
    assert read(data).all_zero
    assert read(data).out_of_scale == 0
    assert not read(with_cell(data, 4, "AU45_c", b"1")).all_zero
    assert not read(SMALL).all_zero


@pytest.mark.parametrize("cell", [b"1.01e9", b"-1e300"])
def test_too_large_number_in_a_used_column_is_an_error(cell: bytes) -> None:
    with pytest.raises(CorruptModality, match="larger") as caught:
        read(with_cell(SMALL, 4, "AU45_c", cell))
    assert caught.value.place == "line 4, column AU45_c"


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


def test_duplicate_column_names_are_an_error() -> None:
    with pytest.raises(CorruptModality, match="same name"):
        read(simulate_openface_csv(1, (*ACTION_UNIT_COLUMNS, "AU01_r")))


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"frame, success\n1, 1\n", b"hello", SMALL.replace(b"AU12_r", b"AU99_r"), SMALL.replace(b",", b";")],
)
def test_file_without_the_needed_columns_is_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedFormat):
        read(data)


@pytest.mark.parametrize("head", [b"\xff\xfe", b"PK\x03\x04\x90", "é".encode()])
def test_file_that_is_not_text_is_an_error(head: bytes) -> None:
    with pytest.raises((CorruptModality, UnsupportedFormat)):
        read(head + SMALL)


def test_first_error_of_the_file_is_raised() -> None:
    lines = with_cell(SMALL, 3, "AU05_r", b"nan").split(b"\n")
    lines[3] = b"1, 2"
    with pytest.raises(CorruptModality, match="finite") as caught:
        read(b"\n".join(lines))
    assert caught.value.place == "line 3, column AU05_r"


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


# ---- limits ---------------------------------------------------------------------------------------------------------


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
