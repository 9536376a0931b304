import pytest
from starlette.testclient import TestClient

from app.api.response import LANGUAGE_NAMES, summarise
from app.api.schemas import KeyMissing, Rule
from model.features.text.language import ENGLISH, LATIN, OTHER_SCRIPTS
from model.features.visual.openface import ACTION_UNIT_COLUMNS


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
        (key(0.004, text=0.004), "positive (81 %), and the missing words would change this with 0 %."),
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
    assert summary == "negative (55 %); how likely the missing words and face would change this is not known."
    assert summarise("negative", 0.55, key(), fitted=False) == "negative (55 %); nothing is missing."


def test_every_identified_language_has_a_name() -> None:
    codes = {*LATIN, *(code for codes in OTHER_SCRIPTS.values() for code in codes)} - {ENGLISH}
    assert set(LANGUAGE_NAMES) == codes
    assert len(set(LANGUAGE_NAMES.values())) == len(codes)


def test_several_faces_and_skipped_frames_give_warnings(client: TestClient) -> None:
    header = "frame,face_id,timestamp,confidence,success," + ",".join(ACTION_UNIT_COLUMNS)
    rows = [
        f"{frame},{face},{frame / 30:.3f},{confidence},{success}," + ",".join([*["0.5"] * 17, *["1"] * 18])
        for frame, face, confidence, success in [
            (1, 0, 0.98, 1),
            (1, 1, 0.7, 1),
            (2, 0, 0.98, 1),
            (3, 0, 0.2, 1),
            (4, 0, 0.9, 0),
        ]
    ]
    csv = "\n".join([header, *rows]).encode()
    answer = client.post("/predict", files={"openface": ("a.csv", csv, "text/csv")}).json()
    assert [warning["code"] for warning in answer["warnings"]] == ["several_faces", "frames_skipped"]
    assert answer["modalities"]["visual"]["faces"] == 2
    assert answer["modalities"]["visual"]["frames"] == 2


def test_a_truncated_text_gives_a_warning(client: TestClient) -> None:
    answer = client.post("/predict", data={"text": "word " * 500}).json()
    assert [warning["code"] for warning in answer["warnings"]] == ["text_truncated"]
    assert answer["modalities"]["text"] == {
        "status": "present",
        "reason": None,
        "familiarity": None,
        "tokens": 48,
        "truncated": True,
    }
