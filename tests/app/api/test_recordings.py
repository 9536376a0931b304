import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.api import recordings
from app.api.recordings import MEDIA_TYPE
from app.recordings.timeline import Channels, Files, open_recording
from app.recordings.transcript import Cue
from app.settings import Settings
from model.config import ModelConfig
from tests.support.openface import simulate_openface_csv
from tests.support.recordings import srt
from tests.support.service import serving
from tests.support.sound import encode, voice_like

pytestmark = pytest.mark.anyio

CLIPS = 16
LENGTH = 4.0  # seconds of each
LACKING = {"text": (2, 7, 12), "audio": (3, 8, 12), "face": (4, 9)}
"""Modality → numbers of the clips that lack it, a fifth of them."""


def recording() -> dict[str, tuple[str, bytes]]:
    """A minute of clips with planted gaps."""
    voice = [np.zeros(64_000) if n in LACKING["audio"] else voice_like(LENGTH, seed=n) for n in range(CLIPS)]
    cues = [Cue(n * LENGTH, (n + 1) * LENGTH, f"Sentence {n}.") for n in range(CLIPS) if n not in LACKING["text"]]
    success = [int(frame // 120 not in LACKING["face"]) for frame in range(30 * 4 * CLIPS)]
    return {
        "audio": ("a.wav", encode(np.concatenate(voice).astype(np.float32), "wav")),
        "transcript": ("a.srt", srt(cues)),
        "openface": ("a.csv", simulate_openface_csv(len(success), "action_units", success=success)),
    }


def post(client: TestClient, files: dict[str, Any], **query: str) -> list[dict[str, Any]]:
    answer = client.post("/recordings", files=files, params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    return [json.loads(line) for line in answer.text.splitlines()]


def test_every_planted_gap_is_reported_with_its_times(client: TestClient) -> None:
    lines = post(client, recording())
    assert (lines[0]["type"], lines[-1]["type"]) == ("recording", "summary")
    assert lines[0]["sources"]["transcript"] == {"format": "srt", "cues": CLIPS - 3}
    expected = {
        "text": [(n * LENGTH, "no_words") for n in LACKING["text"]],
        "audio": [(n * LENGTH, "silent") for n in LACKING["audio"]],
        "visual": [(n * LENGTH, "no_face") for n in LACKING["face"]],
    }
    for modality, gaps in expected.items():
        found = [(span["start"], span["end"]) for span in lines[-1]["missing"][modality]]
        assert np.array(found) == pytest.approx(np.array([(start, start + LENGTH) for start, _ in gaps]), abs=0.3)
        assert {span["reason"] for span in lines[-1]["missing"][modality]} == {reason for _, reason in gaps}
    both = next(line for line in lines[1:-1] if line["start"] == pytest.approx(12 * LENGTH, abs=0.3))
    assert both["modalities"]["text"]["reason"] == "no_words"
    assert both["modalities"]["audio"]["reason"] == "silent"
    assert both["modalities"]["visual"]["status"] == "present"


def test_an_utterance_has_the_fields_of_a_prediction(client: TestClient) -> None:
    line = post(client, {"transcript": ("a.srt", srt([Cue(0, 1, "What a day!")]))}, explain="true")[1]
    alone = client.post("/predict", data={"text": "What a day!"}, params={"explain": "true"}).json()
    for name in ("polarity", "probabilities", "key_missing", "votes", "summary"):
        assert line[name] == pytest.approx(alone[name]) if name == "probabilities" else line[name] == alone[name]
    assert list(line)[:2] == ["type", "index"]


@pytest.mark.parametrize(
    ("transcribe", "part", "few"),
    [
        ("auto", "openface", True),
        ("auto", "transcript", False),
        ("always", "transcript", True),
    ],
)
def test_few_voices_wait_to_be_transcribed(
    client: TestClient, application: FastAPI, monkeypatch: pytest.MonkeyPatch, transcribe: str, part: str, few: bool
) -> None:
    content = {"openface": simulate_openface_csv(30, "action_units"), "transcript": srt([Cue(0, 1, "Hi.")])}[part]
    found: list[int] = []

    def opened(files: Files, config: ModelConfig, settings: Settings, channels: Channels) -> Any:
        found.append(settings.recording_parallel)
        return open_recording(files, config, settings, channels)

    monkeypatch.setattr(recordings, "open_recording", opened)
    post(client, {part: ("a", content)}, transcribe=transcribe)
    usual = application.state.settings.recording_parallel
    assert found == [min(usual, recordings.TRANSCRIBED_PARALLEL) if few else usual]


def test_speaker_normalization_is_an_option(client: TestClient) -> None:
    files = {
        "transcript": ("a.csv", b"start,end,text,speaker\n0,2,Hi.,Anna\n2,4,Bye.,\n"),
        "openface": ("b.csv", simulate_openface_csv(120, "action_units")),
    }
    switched_off = post(client, files, speaker_normalization="false")[1]
    first, second = post(client, files)[1:-1]
    found = [line["modalities"]["visual"]["speaker_normalized"] for line in (switched_off, first, second)]
    assert found == [False, True, False]
    assert "speaker_normalized" not in first["modalities"]["text"]


@pytest.mark.parametrize(
    ("files", "status", "place"),
    [
        ({"transcript": b"1\n00:00:02,000 --> 00:00:01,000\nHi.\n"}, 422, ("transcript", "line 2, cue 1")),
        ({"text": b"Hi."}, 422, (None, None)),
        ({"transcript": b"Once upon a time."}, 415, ("transcript", None)),
    ],
)
def test_files_that_are_not_accepted_are_problems(
    client: TestClient, files: dict[str, bytes], status: int, place: tuple[str | None, str | None]
) -> None:
    answer = client.post("/recordings", files={name: ("a", content) for name, content in files.items()})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    (error,) = answer.json()["errors"]
    assert (error["part"], error["place"]) == place


def test_another_content_type_is_refused(client: TestClient) -> None:
    answer = client.post("/recordings", json={"transcript": "Hi."})
    assert answer.status_code == 415
    assert "multipart/form-data" in answer.json()["detail"]


def test_speakers_need_two_channels(client: TestClient) -> None:
    files = {"transcript": ("a.srt", srt([Cue(0, 1, "Hi.")]))}
    answer = client.post("/recordings", files=files, params={"channels": "speakers"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["place"] == "query.channels"


def test_an_error_after_the_first_line_is_the_last_line(client: TestClient) -> None:
    rows = simulate_openface_csv(90, "action_units").splitlines(keepends=True)
    rows[50] = rows[50].rsplit(b",", 1)[0] + b", 1e999\n"
    lines = post(client, {"openface": ("a.csv", b"".join(rows))})
    assert [line["type"] for line in lines] == ["recording", "problem"]
    assert (lines[1]["problem_type"], lines[1]["status"]) == ("/problems/corrupt-part", 422)
    assert lines[1]["errors"][0]["place"] == "line 51, column AU45_c"


def test_lines_are_counted_by_type(application: FastAPI, client: TestClient) -> None:
    name, labels = "emmr_recording_lines_total", {"type": "utterance"}
    registry = application.state.metrics.registry
    before = registry.get_sample_value(name, labels) or 0
    post(client, {"transcript": ("a.srt", srt([Cue(0, 1, "Hi."), Cue(1, 2, "Bye.")]))})
    assert registry.get_sample_value(name, labels) - before == 2


async def test_recordings_beyond_the_limit_are_refused(tiny_weights: Path) -> None:
    files = {"transcript": ("a.srt", srt([Cue(0, 1, "Hi.")]))}
    async with serving(tiny_weights, max_recordings=1, retry_after=7) as (client, _, application):
        application.state.recordings.begin()
        refused = await client.post("/recordings", files=files)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "7")
        application.state.recordings.end()
        assert (await client.post("/recordings", files=files)).status_code == 200
        assert application.state.recordings.running == 0
        short = {"transcript": ("a.srt", srt([Cue(0, 1, "Hi.")] * 3))}
        application.state.recordings.settings = application.state.settings.model_copy(update={"max_body_bytes": 10})
        assert (await client.post("/recordings", files=short)).status_code == 413
        assert application.state.recordings.running == 0
