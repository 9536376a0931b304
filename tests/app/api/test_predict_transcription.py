"""The query option `transcribe` of a running service, with the real recogniser."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.support.service import Part, serving
from tests.support.sound import encode
from tests.support.speech import speak


@pytest.fixture
def voice() -> Mapping[str, Part]:
    return {"audio": ("voice.wav", encode(speak("Kids are talking by the door."), "wav"), "audio/wav")}


@pytest.mark.anyio
async def test_the_words_of_a_voice_count_and_stay_with_the_asker(
    tiny_weights: Path, voice: Mapping[str, Part], capfd: pytest.CaptureFixture[str]
) -> None:
    async with serving(tiny_weights, transcribe_timeout=60.0, transcribe_niceness=0) as (client, _, _):
        plain = (await client.post("/predict", files=voice)).json()
        health = (await client.get("/health")).json()["components"]["transcription"]
        assert health["state"] == "idle"
        answer = (await client.post("/predict?transcribe=auto", files=voice)).json()
        health = (await client.get("/health")).json()["components"]["transcription"]
        assert (health["state"], health["ok"]) == ("running", True)
        metrics = (await client.get("/metrics")).text
        typed = await client.post(
            "/predict", data={"text": answer["modalities"]["text"]["transcript"]["text"]}, files=voice
        )
    text = answer["modalities"]["text"]
    assert plain["modalities"]["text"]["reason"] == "not_provided"
    assert (text["status"], text["source"]) == ("present", "transcribed")
    assert "talking by the door" in text["transcript"]["text"]
    assert [set(word) for word in text["transcript"]["words"]][:1] == [{"start", "end", "word", "confidence"}]
    assert answer["timings_ms"]["transcribe"] > 0
    assert typed.json()["modalities"]["text"]["source"] == "provided"
    assert typed.json()["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-5)
    assert 'emmr_transcriptions_total{outcome="transcribed"} 1.0' in metrics
    assert "talking" not in "".join(capfd.readouterr())


def test_an_unknown_value_of_the_option_is_422(client: TestClient) -> None:
    refused = client.post("/predict?transcribe=perhaps", data={"text": "Hello."})
    assert refused.status_code == 422
    assert json.loads(refused.content)["errors"][0]["place"] == "query.transcribe"
