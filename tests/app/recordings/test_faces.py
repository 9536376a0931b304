import pytest

from tests.support.openface import simulate_openface_csv
from tests.support.recordings import make_faces

CSV = simulate_openface_csv(90, "action_units", success=[0 if 30 <= n < 60 else 1 for n in range(90)])


def test_coverage_is_the_share_of_frames_with_a_face() -> None:
    faces = make_faces(CSV)
    assert faces.coverage(0.0, 1.0) == pytest.approx(1.0, abs=0.04)
    assert faces.coverage(1.0, 2.0) == pytest.approx(0.0, abs=0.04)
    assert faces.coverage(0.5, 1.5) == pytest.approx(0.5, abs=0.04)


def test_frames_that_are_left_out_are_not_covered() -> None:
    lines = CSV.splitlines(keepends=True)
    faces = make_faces(b"".join([*lines[:31], *lines[61:]]))
    assert faces.coverage(0.0, 3.0) == pytest.approx(2 / 3, abs=0.02)
    assert faces.coverage(1.1, 1.9) == 0.0


def test_several_faces_of_a_frame_are_covered_once() -> None:
    faces = make_faces(simulate_openface_csv(30, "action_units", faces=(0, 1)))
    assert faces.coverage(0.0, 2.0) == pytest.approx(0.5, abs=0.02)


def test_rows_of_a_stretch_are_a_file_of_their_own() -> None:
    content, before = make_faces(CSV).read_rows(1.0, 1.1)
    lines = CSV.splitlines(keepends=True)
    assert before == 30
    assert content.read() == b"".join([lines[0], *lines[31:34]])


def test_the_duration_includes_the_last_frame() -> None:
    faces = make_faces(CSV)
    assert faces.frames == 90
    assert faces.duration == pytest.approx(3.0, abs=0.01)


def test_stretches_without_a_face_are_listed() -> None:
    faces = make_faces(CSV)
    ((start, end),) = faces.lost(0.5)
    assert (start, end) == pytest.approx((1.0, 2.0), abs=0.01)
    assert faces.lost(1.5) == []


def test_times_far_apart_cover_a_second_each() -> None:
    faces = make_faces(simulate_openface_csv(3, "action_units", frames_per_second=0.1))
    assert faces.coverage(0.0, 30.0) == pytest.approx(0.1)
