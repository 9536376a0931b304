from collections.abc import Mapping

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.api.response import LANGUAGE_NAMES, compose, summarise
from app.api.schemas import KeyMissing, Rule
from app.engine.engine import Engine
from app.engine.predictor import PreparedRequest
from app.transcription.transcription import Transcription, Word
from model.features.text.language import ENGLISH, LATIN, OTHER_SCRIPTS
from model.features.visual.table import ACTION_UNIT_COLUMNS
from tests.support.service import Part


def key(score: float = 0.0, *, detected: bool = False, **by_modality: float) -> KeyMissing:
    return KeyMissing(
        detected=detected,
        modalities=[],
        polarity_full="positive",
        polarity_available="positive",
        score=score,
        by_modality=by_modality,
        threshold=0.5,
        rule=Rule(detected=False, modalities=[]),
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (key(), "positive (81 %); nothing is missing."),
        (
            key(0.614, detected=True, visual=0.614),
            "positive (81 %), and the missing face would change this with 61 %.",
        ),
        (key(0.004, text=0.004), "positive (81 %), and the missing text would change this with 0 %."),
        (
            key(0.34, audio=0.11, visual=0.3),
            (
                "positive (81 %); the missing voice and face together would change this with 34 %, "
                "the face alone with 30 %."
            ),
        ),
    ],
)
def test_the_summary_is_one_sentence(given: KeyMissing, words: str) -> None:
    assert summarise("positive", 0.806, given, fitted=True) == words


@pytest.mark.parametrize("detected", [False, True])
def test_the_summary_omits_unfitted_probabilities(detected: bool) -> None:
    summary = summarise("negative", 0.55, key(0.45, detected=detected, text=0.45, visual=0.45), fitted=False)
    assert summary == "negative (55 %); how likely the missing text and face would change this is not known."
    assert summarise("negative", 0.55, key(), fitted=False) == "negative (55 %); nothing is missing."


def test_every_identified_language_has_a_name() -> None:
    codes = {*LATIN, *(code for codes in OTHER_SCRIPTS.values() for code in codes)} - {ENGLISH}
    assert set(LANGUAGE_NAMES) == codes
    assert len(set(LANGUAGE_NAMES.values())) == len(codes)


def test_warnings_of_the_face_name_faces_and_places(client: TestClient) -> None:
    header = "frame,face_id,timestamp,confidence,success," + ",".join(ACTION_UNIT_COLUMNS)
    rows = [
        f"{frame},{face},{frame / 30:.3f},{confidence},{success}," + ",".join([*["0.5"] * 17, *["1"] * 18])
        for frame, face, confidence, success in [
            (1, 0, 0.98, 1),
            (1, 1, 0.7, 1),
            (2, 0, 0.98, 1),
            (3, 0, 0.2, 1),
            (4, 0, 0.9, 0),
            *((frame, 0, 0.98, 1) for frame in range(5, 9)),
        ]
    ]
    rows[6] = rows[6].replace(",0.5", ",-nan(ind)", 1)
    rows[7] = rows[7].replace(",0.233,", ",0.1,").replace(",0.5", ",5.5", 1)
    csv = "\n".join([header, *rows]).encode()
    answer = client.post("/predict", files={"openface": ("a.csv", csv, "text/csv")}).json()
    warnings = {warning["code"]: warning["detail"] for warning in answer["warnings"]}
    assert list(warnings) == ["several_faces", "frames_skipped", "out_of_scale", "time_backwards"]
    assert "face_id 0, 1" in warnings["several_faces"]
    assert "1 without success, 1 with too little confidence" in warnings["frames_skipped"]
    assert "line 8, column AU01_r" in warnings["frames_skipped"]
    assert "line 9, column AU01_r" in warnings["out_of_scale"]
    assert "line 9, column timestamp" in warnings["time_backwards"]
    used = answer["modalities"]["visual"]
    assert (used["faces"], used["frames"], used["skipped"]) == (2, 5, 3)


def test_text_without_tokens_is_missing_beside_a_face(client: TestClient, parts: Mapping[str, Part]) -> None:
    files = {"text": (None, "\u200b\ufe0f".encode(), "text/plain"), "openface": parts["openface"]}
    answer = client.post("/predict", files=files).json()
    assert [warning["code"] for warning in answer["warnings"]] == ["text_no_tokens"]
    assert (answer["modalities"]["text"]["status"], answer["modalities"]["text"]["reason"]) == ("missing", "no_tokens")
    alone = client.post("/predict", files={"text": files["text"]})
    assert (alone.status_code, alone.json()["type"]) == (422, "/problems/nothing-usable")


def test_subtitles_give_a_warning(client: TestClient) -> None:
    text = "1\n00:00:00,000 --> 00:00:02,000\nWhat a lovely surprise!"
    assert [w["code"] for w in client.post("/predict", data={"text": text}).json()["warnings"]] == ["subtitles"]


def test_a_truncated_text_gives_a_warning(client: TestClient) -> None:
    answer = client.post("/predict", data={"text": "word " * 500}).json()
    assert [warning["code"] for warning in answer["warnings"]] == ["text_truncated"]
    assert answer["modalities"]["text"] == {
        "status": "present",
        "reason": None,
        "familiarity": None,
        "source": "provided",
        "transcript": None,
        "tokens": 48,
        "truncated": True,
    }


def test_a_transcript_has_words_and_a_warning_of_its_end(application: FastAPI, client: TestClient) -> None:
    engine: Engine = application.state.engine
    assert engine.predictor is not None
    request = PreparedRequest(engine.predictor)
    transcription = Transcription("Kids talk.", 0.75, "en", (Word(0.5, 0.75, "Kids", 0.875),), 60.0, truncated=True)
    request.add_transcription(transcription)
    answer = compose("trace-1", engine.predictor.decide([request])[0], parsed=0.0)
    assert answer.modalities.text.source == "transcribed"
    transcript = answer.modalities.text.transcript
    assert transcript is not None
    assert transcript.model_dump() == {
        "text": "Kids talk.",
        "confidence": 0.75,
        "language": "en",
        "seconds": 60.0,
        "truncated": True,
        "words": [{"start": 0.5, "end": 0.75, "word": "Kids", "confidence": 0.875}],
    }
    assert "transcript_truncated" in {warning.code for warning in answer.warnings}
