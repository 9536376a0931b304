import io
import wave

import pytest
from starlette.testclient import TestClient

from benchmarks.bodies import FRAME_RATE, SECONDS, Bodies
from model.features.audio.loading import read_sound
from model.features.visual.openface import read_openface
from model.modality import COMPLETE, Modality


def test_voice_and_face_have_the_stated_length() -> None:
    bodies = Bodies()
    with wave.open(io.BytesIO(bodies.audio()), "rb") as reader:
        assert reader.getnframes() / reader.getframerate() == SECONDS
    assert read_sound(io.BytesIO(bodies.audio()))[0].size == SECONDS * 16_000
    assert read_openface(io.BytesIO(bodies.openface()), "all", 0.0).frames == SECONDS * FRAME_RATE


@pytest.mark.parametrize("part", ["text", "audio", "openface"])
def test_every_part_is_unique(part: str) -> None:
    bodies = Bodies()
    assert len({getattr(bodies, part)() for _ in range(20)}) == 20


def test_the_service_accepts_a_request(client: TestClient) -> None:
    request = Bodies().request(COMPLETE)
    headers = [line.partition(": ")[::2] for line in request.head.decode().split("\r\n")[1:-2]]
    response = client.post("/predict", content=request.body, headers=dict(headers))
    assert response.status_code == 200
    assert {response.json()["modalities"][m]["status"] for m in Modality} == {"present"}
