"""Files and texts that were once answered wrongly, in `../shared/cases`, and what each must get."""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import soundfile
from starlette.testclient import TestClient

from app.settings import DEFAULT_WEIGHTS
from tests.support.service import make_app, ready

CASES: Final = Path(__file__).parents[2].parent / "shared" / "cases"
SENTENCE: Final = "I love this, thank you so much!"

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="no cases here: ../shared/cases is not in the repository")


@dataclass(frozen=True)
class Expected:
    """What a case must get.

    Args:
        warnings: codes that must be among those of the answer.
        status: of the response.
        named: words that the problem or the warnings must hold.
        used: fields of the modality in the answer.
        confidence: its maximum.
        seconds: of sound that is used.
        query: of the request.
        polarity: of the answer; only where the content leaves no doubt.
    """

    warnings: tuple[str, ...] = ()
    status: int = 200
    named: tuple[str, ...] = ()
    used: Mapping[str, object] | None = None
    confidence: float = 1.0
    seconds: float | None = None
    query: str = ""
    polarity: str | None = None


OPENFACE: Final[Mapping[str, Expected]] = {
    "openface_nan_in_failed_row.csv": Expected(("frames_skipped",), used={"frames": 29, "skipped": 1}),
    "openface_nan_in_unused_column.csv": Expected(used={"frames": 30, "skipped": 0}),
    "openface_nan_in_two_of_thirty_rows.csv": Expected(
        ("frames_skipped",), named=("line 4, column AU12_r",), used={"frames": 28, "skipped": 2}
    ),
    "openface_au_huge.csv": Expected(status=422, named=("line 2, column AU12_r", "0 to 5")),
    "openface_points_lost_in_spreadsheet.csv": Expected(status=422, named=("line 2, column AU06_r", "0 to 5")),
    "openface_all_zero_face.csv": Expected(("unfamiliar_face",), confidence=0.6),
    "openface_quoted_header.csv": Expected(used={"frames": 30}),
    "openface_tabs.tsv": Expected(used={"frames": 30}),
    "openface_semicolons_decimal_commas.csv": Expected(used={"frames": 30}),
    "openface_utf16.csv": Expected(used={"frames": 30}),
    "openface_decimal_commas_in_comma_file.csv": Expected(status=422, named=("decimal commas",)),
    "openface_two_faces_opposite.csv": Expected(
        ("several_faces",), named=("face_id 0, 1", "face 0, the most confident"), used={"faces": 2}, polarity="positive"
    ),
    "openface_two_faces_opposite.csv, the other face": Expected(
        ("several_faces",), named=("face_id 0, 1", "face 1, the one asked for"), query="?face_id=1", polarity="negative"
    ),
    "openface_two_faces_opposite.csv, no such face": Expected(status=422, named=("face_id 0, 1",), query="?face_id=2"),
    "openface3_wrapper.csv": Expected(status=422, named=("OpenFace 3", "29 of the 35 columns", "AU09_r")),
    "pyfeat.csv": Expected(status=422, named=("Py-Feat", "35 of the 35 columns", "AU01_r")),
    "libreface.csv": Expected(status=422, named=("LibreFace", "35 of the 35 columns", "AU01_r")),
}
SOUNDS: Final[Mapping[str, Expected]] = {
    "cbr_without_xing.mp3": Expected(seconds=3.07),
    "vbr_without_xing.mp3": Expected(seconds=3.07),
    "wav_size_zero.wav": Expected(seconds=2.0),
    "wav_size_streamed.wav": Expected(seconds=2.0),
    "flac_total_zero.flac": Expected(seconds=2.0),
    "ogg_flac.ogg": Expected(status=415, named=("FLAC",)),
    "ogg_speex.ogg": Expected(status=415, named=("Speex",)),
    "stereo_inverted.wav": Expected(("channel",)),
    "stereo_left_silent.wav": Expected(("channel",)),
    "picture_and_sound.mp4": Expected(named=("picture",)),
    "tone.wav": Expected(named=("speech",)),
    "white_noise.wav": Expected(named=("speech",)),
}
# The polarities that texts.json asks for depend on the weights and are not tested.
TEXTS: Final[Mapping[str, Expected]] = {
    "I did not expect to like this film, and yet I did!": Expected(),
    "No complaints here.": Expected(),
    "My flight leaves at nine.": Expected(),
    "Really?!": Expected(),
    "我今天非常难过": Expected(("language",), confidence=0.6),
    "Ich bin sehr enttäuscht.": Expected(("language",), confidence=0.6),
    "🙂🙂🙂": Expected(("low_information",)),
    "\ufe0f": Expected(status=422, named=("Nothing usable", "text encoder")),
    "[PAD] good": Expected(used={"tokens": 6}),
    "1\n00:00:00,000 --> 00:00:02,000\nI love this": Expected(("subtitles",)),
}


@pytest.fixture(scope="module")
def shipped() -> Iterator[TestClient]:
    with TestClient(make_app(DEFAULT_WEIGHTS, decode_workers=1)) as client:
        ready(client)
        yield client


def assert_answer(client: TestClient, expected: Expected, part: str, content: bytes, text: str = "") -> dict[str, Any]:
    files = {part: (None if part == "text" else "f", content, "text/plain")}
    if text:
        files["text"] = (None, text.encode(), "text/plain")
    response = client.post(f"/predict{expected.query}", files=files)
    assert response.status_code == expected.status, response.text
    answer: dict[str, Any] = response.json()
    words = json.dumps(answer["errors"] + [answer["detail"]] if expected.status != 200 else answer["warnings"])
    assert all(word in words for word in expected.named), words
    if expected.status == 200:
        assert set(expected.warnings) <= {warning["code"] for warning in answer["warnings"]}
        assert answer["confidence"] <= expected.confidence
        assert expected.polarity in (None, answer["polarity"])
        key = answer["key_missing"]
        assert key["polarity_full"] == answer["polarity"]
        assert key["detected"] or key["polarity_available"] == answer["polarity"]
        used = answer["modalities"]["visual" if part == "openface" else part]
        assert dict(used) == dict(used) | dict(expected.used or {})
        if expected.seconds is not None:
            assert used["seconds"] == pytest.approx(expected.seconds, abs=0.05)
    return answer


def test_every_case_is_in_a_table() -> None:
    files = {path.name for path in CASES.iterdir()} - {"README.md", "texts.json"}
    assert {name.partition(",")[0] for name in (*OPENFACE, *SOUNDS)} == files
    assert {case["text"] for case in json.loads((CASES / "texts.json").read_text(encoding="utf-8"))} == set(TEXTS)


@pytest.mark.parametrize("name", OPENFACE)
def test_a_face_gets_its_answer(shipped: TestClient, name: str) -> None:
    assert_answer(shipped, OPENFACE[name], "openface", (CASES / name.partition(",")[0]).read_bytes())


@pytest.mark.parametrize("name", SOUNDS)
def test_a_sound_gets_its_answer(shipped: TestClient, name: str) -> None:
    assert_answer(shipped, SOUNDS[name], "audio", (CASES / name).read_bytes(), SENTENCE)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_gets_its_answer(shipped: TestClient, text: str) -> None:
    assert_answer(shipped, TEXTS[text], "text", text.encode())


def test_a_silent_channel_does_not_change_the_answer(shipped: TestClient) -> None:
    samples, rate = soundfile.read(CASES / "stereo_left_silent.wav", dtype="int16")
    right = io.BytesIO()
    soundfile.write(right, samples[:, 1], rate, format="WAV")
    both = assert_answer(shipped, Expected(), "audio", (CASES / "stereo_left_silent.wav").read_bytes())
    alone = assert_answer(shipped, Expected(), "audio", right.getvalue())
    assert both["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)
