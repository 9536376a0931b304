"""Requests that are real, and never twice the same."""

import io
import wave

import pytest
from starlette.testclient import TestClient

from benchmarks.bodies import FRAME_RATE, SECONDS, Bodies
from model.features.audio.loading import read_sound
from model.features.visual.openface import read_openface
from model.modality import COMPLETE, Modality


def test_the_voice_and_the_face_last_as_long_as_they_say() -> None:
    bodies = Bodies()
    with wave.open(io.BytesIO(bodies.audio()), "rb") as reader:
        assert reader.getnframes() / reader.getframerate() == SECONDS
    assert read_sound(io.BytesIO(bodies.audio())).waveform.size == SECONDS * 16_000
    assert read_openface(io.BytesIO(bodies.openface()), "all", 0.0).frames == SECONDS * FRAME_RATE


@pytest.mark.parametrize("part", ["text", "audio", "openface"])
def test_no_part_comes_twice(part: str) -> None:
    bodies = Bodies()
    assert len({getattr(bodies, part)() for _ in range(20)}) == 20


def test_the_service_understands_a_whole_request(client: TestClient) -> None:
    head, _, body = Bodies().request(COMPLETE).partition(b"\r\n\r\n")
    lines = [line.partition(": ")[::2] for line in head.decode().split("\r\n")[1:]]
    answer = client.post("/predict", content=body, headers=dict(lines))
    assert answer.status_code == 200
    assert {answer.json()["modalities"][m]["status"] for m in Modality} == {"present"}
