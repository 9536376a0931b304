import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from model.errors import CorruptModality, UnsupportedFormat
from model.features.visual.conversion import TRACKERS, Conversion, convert, is_present, to_intensity
from model.features.visual.openface import FaceTrack, read_openface
from model.features.visual.table import ACTION_UNIT_COLUMNS, INTENSITIES
from model.features.visual.table_format import CONVERTED, foreign_table
from tests.support.openface import simulate_openface_csv

PY_FEAT = [f"AU{unit:02d}" for unit in (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 23, 24, 25, 26, 28, 43)]
LIBREFACE = [
    *(f"au_{unit}" for unit in (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)),
    *(f"au_{unit}_intensity" for unit in (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)),
]
AFFDEX = [name.title() for name in TRACKERS[2].units.values()]
FACET = [f"AU{unit} Evidence" for unit in TRACKERS[3].units]


def table(rows: Sequence[Mapping[str, object]], separator: str = ",") -> str:
    lines = [separator.join(rows[0]), *(separator.join(map(str, row.values())) for row in rows)]
    return "\n".join(lines) + "\n"


def converted(tmp_path: Path, content: str | bytes, fps: float | None = None) -> tuple[Conversion, str]:
    path, out = tmp_path / "tool.csv", io.StringIO()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return convert(path, out, fps), out.getvalue()


def read(text: str, face_id: int | None = None) -> FaceTrack:
    return read_openface(io.BytesIO(text.encode()), "action_units", 0.5, face_id=face_id)


def units(track: FaceTrack) -> dict[str, float]:
    return dict(zip(ACTION_UNIT_COLUMNS, track.values[0].tolist(), strict=True))


def py_feat(**changes: object) -> dict[str, object]:
    return {"frame": 0, "FaceScore": 0.99, **dict.fromkeys(PY_FEAT, 0.2), **changes}


def test_probabilities_are_spread_over_the_scale_of_openface(tmp_path: Path) -> None:
    report, text = converted(tmp_path, table([py_feat(AU12=0.9, AU43=0.6)]))
    found = units(read(text))
    assert (report.tool, report.frames, report.without_face) == ("Py-Feat", 1, 0)
    assert found["AU12_r"] == pytest.approx(4.5)
    assert found["AU06_r"] == pytest.approx(1.0)
    assert (found["AU12_c"], found["AU06_c"]) == (1, 0)
    assert (found["AU45_r"], found["AU45_c"]) == (3, 1)
    assert report.intensities[45] == "from AU43"


def test_intensities_of_libreface_keep_their_scale(tmp_path: Path) -> None:
    row: dict[str, object] = {"frame_time_in_ms": 40.0, **dict.fromkeys(LIBREFACE, 0), "au_12_intensity": 3.25}
    report, text = converted(tmp_path, table([row | {"au_7": 1, "au_25_intensity": 1}]))
    found = units(read(text))
    assert found["AU12_r"] == pytest.approx(3.25)
    assert (found["AU07_r"], found["AU07_c"]) == (1, 1)  # only its occurrence is known
    assert (found["AU12_c"], found["AU25_c"]) == (0, 1)
    assert (found["AU45_r"], report.intensities[45], report.intensities[7]) == (0, "absent", "from occurrence")
    assert (report.occurrences[12], report.occurrences[25]) == ("same scale", "from intensity")


def test_percent_of_an_imotions_export_is_read_after_its_metadata(tmp_path: Path) -> None:
    frame: dict[str, object] = {"Row": 1, "Timestamp": 1000, "EventSource": 3, **dict.fromkeys(AFFDEX, 0), "Smile": 50}
    empty: dict[str, object] = dict.fromkeys(frame, "")
    gaze = empty | {"Row": 2, "Timestamp": 1005, "EventSource": 1}
    rows = [frame, gaze, frame | {"Row": 3, "Timestamp": 1040}]
    report, text = converted(tmp_path, "#METADATA\n#Device,AFFDEX\n#DATA\n" + table(rows))
    assert (report.tool, report.frames, report.without_face) == ("AFFDEX", 2, 0)
    assert [line.split(",")[1] for line in text.splitlines()[1:]] == ["0.000", "0.040"]
    assert units(read(text))["AU12_r"] == pytest.approx(2.5)


def test_evidence_is_a_decimal_logarithm_of_odds(tmp_path: Path) -> None:
    report, text = converted(tmp_path, table([{**dict.fromkeys(FACET, 0), "AU4 Evidence": 1}], "\t"))
    assert report.tool == "FACET"
    assert units(read(text))["AU04_r"] == pytest.approx(5 * 10 / 11, abs=1e-3)
    assert to_intensity(-400, "evidence") == pytest.approx(0)
    assert is_present(0, "evidence")


def test_answers_on_a_converted_table_have_a_warning(tmp_path: Path) -> None:
    _, text = converted(tmp_path, table([py_feat()]))
    assert list(read(text).warnings) == ["converted"]
    assert "Py-Feat" in read(text).warnings["converted"]


def test_frame_without_a_face_has_no_success(tmp_path: Path) -> None:
    rows = [py_feat(), py_feat(frame=1, FaceScore="", **dict.fromkeys(PY_FEAT, "nan"))]
    report, text = converted(tmp_path, table(rows))
    track = read(text)
    assert report.without_face == 1
    assert (track.kept, track.skipped_unsuccessful) == (1, 1)


def test_most_confident_face_of_a_frame_is_kept_without_identities(tmp_path: Path) -> None:
    report, text = converted(tmp_path, table([py_feat(AU12=1.0, FaceScore=0.9), py_feat(AU12=0.0, FaceScore=0.8)]))
    assert (report.frames, report.other_faces) == (1, 1)
    assert units(read(text))["AU12_r"] == 5


def test_identities_become_face_ids(tmp_path: Path) -> None:
    rows = [py_feat(Identity="Person_0", AU12=1.0), py_feat(Identity="Person_1", AU12=0.0)]
    report, text = converted(tmp_path, table(rows))
    assert report.frames == 2
    assert [units(read(text, face_id))["AU12_r"] for face_id in (0, 1)] == [5, 0]


def test_frame_rate_gives_times(tmp_path: Path) -> None:
    _, text = converted(tmp_path, table([py_feat(frame=n) for n in range(2)]), fps=25)
    assert [line.split(",")[1] for line in text.splitlines()] == ["timestamp", "0.000", "0.040"]


def test_byte_order_mark_semicolons_and_decimal_commas_are_read(tmp_path: Path) -> None:
    content = table([py_feat(AU12=0.9)], ";").replace(".", ",").replace("\n", "\r\n")
    _, text = converted(tmp_path, b"\xef\xbb\xbf" + content.encode())
    assert units(read(text))["AU12_r"] == pytest.approx(4.5)


def test_table_with_too_few_units_is_refused_with_those_it_lacks(tmp_path: Path) -> None:
    row = {name: 0 for name in py_feat() if name not in {"AU01", "AU02", "AU04", "AU05", "AU06", "AU07"}}
    with pytest.raises(UnsupportedFormat) as refused:
        converted(tmp_path, table([row]))
    assert "11 of OpenFace's 17 intensities" in str(refused.value)
    assert "AU01, AU02, AU04, AU05, AU06, AU07" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (simulate_openface_csv(1, "action_units"), "nothing is to convert"),
        (b"frame,AU01_r,AU02_r,AU03_r,AU08_r\n0,1,1,1,1\n", "numbered from 1 to 8"),
        (b"BrowDownLeft\n0\n", "MediaPipe or ARKit"),
        (b"a,b\n1,2\n", "no column of a tool that can be converted"),
        (b"", "no header"),
        (b"{}", "JSON"),
        (table([py_feat()]).split("\n")[0].encode(), "no frame"),
    ],
)
def test_other_content_is_refused_by_name(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(UnsupportedFormat) as refused:
        converted(tmp_path, content)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (table([py_feat(AU12="high")]), "not a number (line 2, column AU12)"),
        (table([py_feat(AU12=40)]), "outside the scale of Py-Feat, 0 to 1 (line 2, column AU12)"),
        (table([py_feat(AU12="inf")]), "outside the scale"),
        (table([py_feat()]) + "1,2\n", "2 cells stand under 22 columns (line 3)"),
        (table([py_feat(AU12="x" * 200_000)]), "not a row of a CSV"),
    ],
)
def test_corrupt_cell_is_named_by_line_and_column(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(CorruptModality) as refused:
        converted(tmp_path, content)
    assert words in str(refused.value)


def test_reader_names_every_tool_that_can_be_converted() -> None:
    columns = {"Py-Feat": "FaceScore", "LibreFace": "au_1_intensity", "AFFDEX": "Brow Furrow", "FACET": "AU1 Evidence"}
    assert {tracker.marker: tracker.name for tracker in TRACKERS} == CONVERTED
    assert all("convert-aus" in str(foreign_table([columns[tracker.name]])) for tracker in TRACKERS)


def test_every_tracker_has_enough_units_for_a_conversion() -> None:
    counts = {tracker.name: len(set(INTENSITIES) & set(tracker.units)) for tracker in TRACKERS}
    assert counts == {"Py-Feat": 16, "LibreFace": 12, "AFFDEX": 15, "FACET": 16}
    assert np.all([43 in tracker.units for tracker in TRACKERS if tracker.name != "LibreFace"])
