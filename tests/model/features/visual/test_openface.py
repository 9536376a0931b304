from pathlib import Path

import numpy as np
import pytest

from model.errors import (
    CorruptModality,
    EmptyModality,
    FaceNotFound,
    UnsupportedFormat,
)
from model.features.visual.openface import read_openface
from model.features.visual.table import ACTION_UNIT_COLUMNS, ALL_COLUMNS, ColumnSet
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


@pytest.mark.parametrize("cell", [b"-nan(ind)", b"", b"happy", b"1e999", b"\xff"])
def test_cells_of_columns_that_are_not_used_are_not_judged(cell: bytes) -> None:
    data = simulate_openface_csv(3, (*ACTION_UNIT_COLUMNS, "mood"), spaces=False)
    track = read(with_cell(with_cell(data, 3, "mood", cell), 2, "frame", cell))
    assert np.array_equal(track.values, read(data).values)
    assert track.warnings == {}


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


def test_faces_are_listed_and_may_be_chosen() -> None:
    data = simulate_openface_csv(4, "action_units", faces=(2, 7), confidence=(0.7, 0.95))
    track, other = read(data), read(data, face_id=2)
    listed = "The file holds 2 faces (face_id 2, 7); face"
    assert track.warnings == {"several_faces": f"{listed} 7, the most confident one, was followed."}
    assert other.warnings == {"several_faces": f"{listed} 2, the one asked for, was followed."}
    assert (track.face_id, other.face_id, other.faces) == (7, 2, 2)
    assert not np.array_equal(track.values, other.values)
    assert np.array_equal(read(data, face_id=7).values, track.values)


@pytest.mark.parametrize(
    ("data", "listed"),
    [
        (SMALL, "1 face (face_id 0)"),
        (simulate_openface_csv(1, "action_units", faces=(2, 7)), "2 faces (face_id 2, 7)"),
        (simulate_openface_csv(1, "action_units", faces=range(9)), "9 faces (face_id 0, 1, 2, 3, 4 and 4 more)"),
        (simulate_openface_csv(1, "action_units", face_id=False), "no numbered faces"),
    ],
)
def test_error_of_an_unknown_face_lists_the_faces(data: bytes, listed: str) -> None:
    with pytest.raises(FaceNotFound) as caught:
        read(data, face_id=9)
    assert caught.value.detail == f"there is no face 9; the file has {listed}"


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


FAULTS: tuple[bytes, ...] = (
    b"inf",
    b"-inf",
    b"Infinity",
    b"1e999",
    b"-1e999",
    b"1_000",
    b"1 2",
    b"0x10",
    b"1\xa0",
    b"1.2.3",
    b"--1",
)
FAULTS += (b"1e", b".", b"e5", b"\xd9\xa1", b"one", b"1\0", b'"one"', b'"1', b"nanny", b"nan(")
NO_NUMBERS: tuple[bytes, ...] = (
    b"",
    b" ",
    b'""',
    b"nan",
    b" NaN",
    b"-nan",
    b"nan(0x1)",
    b"-nan(ind)",
    b"-nan(snan)",
    b"1.#QNAN",
    b"-1.#IND",
)
NO_NUMBERS += (b"-1.#IND00", b"NA", b"N/A", b"#N/A", b"null")


@pytest.mark.parametrize("cell", FAULTS)
@pytest.mark.parametrize("column", ["AU12_r", "success", "confidence", "face_id"])
def test_error_of_a_faulty_cell_names_line_and_column(cell: bytes, column: str) -> None:
    with pytest.raises(CorruptModality, match="finite") as caught:
        read(with_cell(SMALL, 3, column, cell))
    assert caught.value.place == f"line 3, column {column}"


@pytest.mark.parametrize("cell", NO_NUMBERS)
@pytest.mark.parametrize("column", ["AU12_r", "success", "confidence", "face_id"])
def test_frame_without_a_number_is_skipped_with_a_warning(cell: bytes, column: str) -> None:
    data = simulate_openface_csv(10, "action_units")
    track = read(with_cell(data, 4, column, cell))
    assert np.array_equal(track.values, np.delete(read(data).values, 2, axis=0))
    assert (track.kept, track.skipped_unreadable) == (9, 1)
    assert track.warnings == {
        "frames_skipped": "Frames left out: 0 without success, 0 with too little confidence, 1 without a number in a "
        f"needed cell, first in line 4, column {column}."
    }


@pytest.mark.parametrize(("faulty", "accepted"), [(1, True), (2, True), (3, False)])
def test_a_fifth_of_the_frames_may_lack_a_number(faulty: int, accepted: bool) -> None:
    # Ten usable frames of face 0 after one without success; those of face 1 do not count.
    data = simulate_openface_csv(11, "action_units", success=(0, *(1,) * 10))
    data += simulate_openface_csv(11, "action_units", faces=(1,), confidence=0.6).split(b"\n", 1)[1]
    for line in range(2, 4 + faulty):
        data = with_cell(data, line, "AU45_r" if line > 4 else "AU04_r", b"nan")
    data = with_cell(data, 2, "AU04_r", b"nan")
    data = with_cell(data, 3, "AU04_r", b"0") if faulty else data
    if accepted:
        assert read(data).skipped_unreadable == faulty
        return
    with pytest.raises(CorruptModality, match="3 of 10 frames lack a number in a needed cell; at most 20%") as caught:
        read(data)
    assert caught.value.place == "line 4, column AU04_r"


@pytest.mark.parametrize("cell", [b"-nan(ind)", b"1e999", b"one", b"0.5"])
@pytest.mark.parametrize(("success", "confidence"), [(0, 0.98), (1, 0.2)], ids=["no success", "no confidence"])
def test_cells_of_skipped_rows_are_not_judged(cell: bytes, success: int, confidence: float) -> None:
    skipped = simulate_openface_csv(1, "action_units", success=success, confidence=confidence)
    for column in ("face_id", "timestamp", "AU01_r", "AU45_c", *(("confidence",) if success == 0 else ())):
        skipped = with_cell(skipped, 2, column, cell)
    track = read(SMALL + skipped.split(b"\n", 1)[1])
    assert np.array_equal(track.values, read(SMALL).values)
    assert track.skipped_unsuccessful + track.skipped_low_confidence == 1


def test_cells_of_other_faces_are_not_judged() -> None:
    data = simulate_openface_csv(2, "action_units", faces=(0, 1), confidence=(0.7, 0.9))
    assert read(with_cell(data, 2, "AU12_r", b"one")).face_id == 1
    with pytest.raises(CorruptModality, match="finite"):
        read(with_cell(data, 2, "AU12_r", b"one"), face_id=0)


@pytest.mark.parametrize("cell", [b"1", b" 1 ", b"+1", b"-1", b"1.", b".5", b"1e3", b"1.5E-2", b"\t2", b"0001"])
def test_every_notation_of_a_number_is_read(cell: bytes) -> None:
    track = read(with_cell(simulate_openface_csv(3), 2, "gaze_0_x", cell), "all")
    assert track.values[0, 0] == np.float32(float(cell))


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
    warning = track.warnings.get("out_of_scale", "")
    assert ("In 1 of 3 frames" in warning and warning.endswith(f"line 3, column {column}.")) == bool(counted)
    assert list(track.warnings) == ["out_of_scale"] * counted


def test_rows_off_scale_are_counted_once() -> None:
    data = with_cell(with_cell(with_cell(SMALL, 2, "AU01_r", b"6"), 2, "AU45_c", b"2"), 4, "AU12_r", b"-1")
    assert "In 2 of 3 frames" in read(data).warnings["out_of_scale"]


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
    assert (track.kept, list(track.warnings)) == (2, ["frames_skipped"])
    two = simulate_openface_csv(2, "action_units", faces=(0, 1), confidence=(0.7, 0.9))
    assert list(read(with_cell(two, 2, "AU12_r", b"99")).warnings) == ["several_faces"]


def test_all_zero_is_set_only_if_every_action_unit_is_zero() -> None:
    data = simulate_openface_csv(3, "action_units", success=(1, 0, 1))
    for line in (2, 4):
        for column in ACTION_UNIT_COLUMNS:
            data = with_cell(data, line, column, b"0.00")
    assert read(data).all_zero
    assert "out_of_scale" not in read(data).warnings
    assert not read(with_cell(data, 4, "AU45_c", b"1")).all_zero
    assert not read(SMALL).all_zero


@pytest.mark.parametrize("cell", [b"1.01", b"98", b"1e5"])
def test_confidence_above_one_is_an_error(cell: bytes) -> None:
    with pytest.raises(CorruptModality, match="scale, 0 to 1") as caught:
        read(with_cell(SMALL, 3, "confidence", cell))
    assert caught.value.place == "line 3, column confidence"


@pytest.mark.parametrize(("column", "cell"), [("timestamp", b"0.01"), ("frame", b"1")])
def test_time_that_goes_backwards_gives_a_warning(column: str, cell: bytes) -> None:
    data = simulate_openface_csv(4, "action_units")
    if column == "frame":
        data = data.replace(b"timestamp", b"elapsed")
    assert read(data).warnings == {}
    (code, detail), *others = read(with_cell(data, 4, column, cell)).warnings.items()
    assert (code, others) == ("time_backwards", [])
    assert f"line 4, column {column}" in detail


def test_time_counts_only_in_frames_of_the_followed_face() -> None:
    data = simulate_openface_csv(4, "action_units", faces=(0, 1), confidence=(0.9, 0.7))
    assert list(read(with_cell(data, 3, "timestamp", b"9")).warnings) == ["several_faces"]
    assert "time_backwards" in read(with_cell(data, 3, "timestamp", b"9"), face_id=1).warnings
    assert "time_backwards" not in read(with_cell(SMALL, 3, "timestamp", b"nan")).warnings


@pytest.mark.parametrize("cell", [b"1.01e9", b"-1e300"])
def test_too_large_number_in_a_used_column_is_an_error(cell: bytes) -> None:
    with pytest.raises(CorruptModality, match="larger") as caught:
        read(with_cell(SMALL, 4, "AU45_c", cell))
    assert caught.value.place == "line 4, column AU45_c"
